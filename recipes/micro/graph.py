"""The operations of `micro` for ONNX Runtime: what `MicroBackbone.forward` does, without its weights.

    pip install onnx==1.23.2 onnxscript==0.7.2
    python recipes/micro/graph.py mdmf_ops/detector/micro.onnx

To be run when `MicroBackbone.forward` changes; `tests/detector/test_micro_onnx.py` fails until it was. The weights come
from the detector's folder, where each keeps the name that it has here.
"""

import sys
from pathlib import Path

import onnx
import torch

from mdmf_ops.detector.micro import MicroBackbone


def main() -> None:
    [path] = sys.argv[1:]
    backbone = MicroBackbone().eval()
    patch_px, longest_px = backbone.geometry.patch_px, backbone.geometry.max_tile_px
    rows, cols = (torch.export.Dim(name, min=2, max=longest_px // patch_px) for name in ("rows", "cols"))
    # Of no special size: what holds for this one alone would be taken for granted.
    tiles = torch.zeros(2, 3, 10 * patch_px, 13 * patch_px, dtype=torch.uint8)
    program = torch.onnx.export(
        backbone,
        (tiles,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("count"), 2: patch_px * rows, 3: patch_px * cols},),
        input_names=["tiles"],
        output_names=["seen"],
        opset_version=18,
    )
    model = program.model_proto
    weights = backbone.state_dict()
    stored = {initializer.name for initializer in model.graph.initializer}
    assert stored >= set(weights), sorted(set(weights) - stored)
    for initializer in model.graph.initializer:
        if initializer.name in weights:
            initializer.ClearField("raw_data")
            initializer.data_location = onnx.TensorProto.EXTERNAL
            initializer.external_data.add(key="location", value="backbone.safetensors")
    for described in (model, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        described.ClearField("metadata_props")
    del model.graph.value_info[:]
    Path(path).write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
