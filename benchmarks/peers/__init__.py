"""What Headstart is measured against: the same images, weights and epochs, each a command from start to saved model."""
