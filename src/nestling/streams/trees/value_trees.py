"""STUB"""

from nestling.streams.kernels.compiled import compiled


def make_value_tree(num_columns, *, seed=0):
    from nestling.streams.trees.hoeffding import make_tree

    return make_tree(num_columns, 3, seed=seed)


def grow_value_tree(arrays, num_columns):
    from nestling.streams.trees.hoeffding import grow_tree

    return grow_tree(arrays, num_columns, 3)


@compiled
def answer_value_tree(tree, x_C, kinds_C):
    return 0.0


@compiled
def learn_value_tree(tree, x_C, kinds_C, target, weight):
    return False
