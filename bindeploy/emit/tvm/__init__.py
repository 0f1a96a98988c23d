"""Converted model + Target -> a compiled TVM module. `import tvm` stands in this room alone.

`importer` makes Relax of the ONNX graph: every layer becomes a kernel of ours, written as explicit
loops over vectors (`convolution`, `packing`, `pools`) for the `Processor` that a Target describes;
everything else is TVM's own. `compiler` builds and links the module, `machine` runs it.
"""
