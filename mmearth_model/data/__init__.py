"""From a store to tensors: data sets, targets and normalisation."""
