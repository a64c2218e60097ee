"""ONNX files as models: read a file, build a module of real layers, compare both, write the slim file.

The slim file is the given graph with smaller weights. Names, types, dynamic axes and metadata are those of the given
file, because nothing is exported again.
"""
