"""The cases of `bench api`: one module for each question that its table answers."""
