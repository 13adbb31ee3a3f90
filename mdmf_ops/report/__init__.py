"""Pages and plots for people, made from rows alone: neither Beam nor a detector is needed to draw them."""
