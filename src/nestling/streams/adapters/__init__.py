"""Stream learners with the interfaces of other libraries: River's and scikit-learn's."""
