"""The emulated account: everything that stands in for AWS and the model on one machine."""
