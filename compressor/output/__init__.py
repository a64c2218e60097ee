"""What a run leaves behind: the ONNX files, the folder they lie in, and what the report says of them."""
