"""The output folder of a run: the ONNX files, the weights, the report, and the gates that the run has to meet."""
