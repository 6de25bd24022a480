"""What is wrong with a recipe before step 0: a copy of its graph examined on real samples, check by check."""
