"""A made-up paper: search the width of a CenterNet."""
