"""What is changed of a module that was loaded, so that its channels can be removed."""
