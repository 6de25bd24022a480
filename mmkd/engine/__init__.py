"""The loop and what it stands on: data order, optimisers, checkpoints, remembered teachers."""
