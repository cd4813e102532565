"""Layers of torch-geometric, imported without the warning that it causes with newer versions of torch."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
    from torch_geometric.nn import DenseGCNConv, DenseGraphConv, SAGEConv

__all__ = ["DenseGCNConv", "DenseGraphConv", "SAGEConv"]
