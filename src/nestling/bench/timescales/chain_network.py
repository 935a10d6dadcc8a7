"""A chain of MLP blocks for plain inputs: the continuum memory system in its simplest place."""

from torch import Tensor, nn

from nestling.models import build_model


class ChainNetwork(nn.Module):
    """Residual MLP blocks one after the other between a first layer and a head.

    h = relu(stem(x));  h <- h + W2 relu(W1 h) in every block;  head(h)   [NL eq. 70, fastest first]

    Args:
        num_inputs: numbers per input.
        width: of h and of each block's hidden layer.
        num_classes: outputs.
        num_blocks: of the chain.
    """

    def __init__(self, num_inputs: int, width: int, num_classes: int, num_blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(num_inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(num_blocks)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, num_classes)."""
        h = self.stem(x.flatten(1)).relu()
        for block in self.blocks:
            h = h + block(h)
        found: Tensor = self.head(h)
        return found


def make_chain_network(num_inputs: int, width: int, num_classes: int, *, seed: int) -> nn.Module:
    """The chain with first weights that depend on the seed alone.

    >>> len(make_chain_network(4, 8, 2, seed=0).blocks)
    3
    """
    sizes = {"num_inputs": num_inputs, "width": width, "num_classes": num_classes}
    return build_model(f"{__name__}:ChainNetwork", sizes, seed=seed)
