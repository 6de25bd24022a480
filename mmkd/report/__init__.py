"""What a run or a graph looks like: text, pictures, cards."""
