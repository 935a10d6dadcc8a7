"""A learner as one plain module, for torch.export, ONNX or any torch code."""
