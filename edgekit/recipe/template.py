"""A commented recipe to start from, one for each task."""

from edgekit.recipe.spec import Task

__all__ = ["template"]

_HEAD = """\
# An edgekit recipe. Build it with: edgekit build {file}
# Relative paths start at this file's folder. From `adapt` on, every value is the default and its key may go.

# Name of the bundle: lower-case letters, digits and hyphens.
name: {name}
# Version of your model.
version: 0.1.0
"""

_TEXT = """
model:
  task: text-classification
  teacher:
    # One of:
    #   folder: ./my-bert                a transformers folder: config.json, model.safetensors, tokenizer.json
    #   hub: owner/name                  a hub id, with `revision: ...`; the only one that uses the network
    #   package: distribution            an installed package that carries the files, with `subfolder: ...`
    #   factory: module:function         returns an nn.Module; needs --trust-code, because it runs that code
    #   weights: model.safetensors       with `config: {...}` of one of edgekit's own architectures
    folder: ./my-bert
    licence: Apache-2.0                # goes into the bundle; state it if you know it
  student:
    layers: [0, 2, 5]                  # teacher layers that the student copies; default: all
    max_length: 64                     # tokens per text, the special ones included; longer texts are cut

data:
  # A source is one of csv, jsonl, parquet, datasets (a name for the `datasets` library, with `split: ...`).
  train: {csv: train.csv}
  eval: {csv: eval.csv}                # or: eval_rows: 1000, split off from train
  text: text                           # the column that holds the text
  label: label                         # the column that holds the label
  # labels: {0: negative, 1: positive} # names of the raw values; default: the raw values
  # where: {language: en}              # keep the rows in which a column has this value
"""

_IMAGE = """
model:
  task: image-classification
  teacher:
    # One of:
    #   architecture: cnn                one of edgekit's own, trained from scratch
    #   weights: model.safetensors       with the `config: {...}` of that architecture
    #   factory: module:function         returns an nn.Module; needs --trust-code, because it runs that code
    architecture: cnn
    config: {widths: [32, 64, 128]}    # channels of each block
  student:
    widths: [16, 32, 64]               # channels of each block; default: the teacher's

data:
  # A source is one of images (a folder with one sub-folder per class), npz (arrays x and y), idx (MNIST-style files,
  # with `split: train` or `t10k`), sklearn (digits), datasets (a name for the `datasets` library).
  train: {images: train}
  eval: {images: eval}                 # or: eval_rows: 1000, split off from train
  image:                               # resize to height x width, then (x * scale - mean) / std
    height: 64
    width: 64
    channels: 3
    scale: 0.00392156862745098         # 1/255, for 8-bit images
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]
"""

_STEPS = """
adapt:                                 # fine-tune the teacher on the training rows
  epochs: 2                            # {adapt_zero}
  batch_size: 32
  learning_rate: 1e-4

distill:                               # teach the student: ce_weight*CE + (1-ce_weight)*T^2*KL{hidden_loss}
  epochs: 2
  batch_size: 32
  learning_rate: 2e-4
  temperature: 2.0
  ce_weight: 0.3                       # share of the hard labels, 0 to 1
{distill_more}
prune:                                 # remove the least useful structure, then recover by distillation
{prune_sizes}
  multiple: 8                          # kept sizes are multiples of this, for the target's kernels
  criterion: activation                # or magnitude
  recover_epochs: 1

quantize:                              # static int8
  calibration_rows: 256                # training rows that the ranges are measured on
  ranges: minmax                       # or percentile, entropy, mse: may clip, kept only if that helps
  activations: auto                    # or uint8, int8 (ONNX only); auto takes what suits the target
{quantize_more}
export:
  formats: [onnx, tflite]

budget:                                # a build that misses one of these fails with exit code 3
  max_drop: 1.0 points                 # accuracy that int8 may lose against float32
  max_changed: 5.0 points              # share of decisions that int8 may change
  # max_size_mb: 10
  # max_latency_ms: 20                 # CPU time on this machine, one thread
# parity: {{gates: {{min_sqnr: 25 dB}}}}   # bounds of the build and of each later comparison

targets: [x86-64]                      # see: edgekit targets
seed: 0
precision: auto                        # of training; or float32, bfloat16. auto: bfloat16 where the CPU has it
"""

_TEXT_STEPS = {
    "adapt_zero": "0 takes the teacher as it is",
    "hidden_loss": " + hidden_weight*MSE",
    "distill_more": "  hidden_weight: 1.0                   # weight of the hidden states; 0 turns them off\n",
    "prune_sizes": "  heads: 0                             # attention heads kept per layer; 0 keeps all\n"
    "  ffn: 0                               # feed-forward neurons kept per layer; 0 keeps all",
    "quantize_more": "  ffn_output: dynamic                  # or float, static: outliers there break static int8\n"
    "  embedding: int8                      # or float\n"
    "  techniques: true                     # try accuracy techniques, keep those that measurably help\n",
}
_IMAGE_STEPS = {
    "adapt_zero": "passes over the training rows",
    "hidden_loss": "",
    "distill_more": "",
    "prune_sizes": "  channels: 0.0                        # fraction of channels removed, 0 to below 1",
    "quantize_more": "",
}


def template(task: Task, *, name: str, file: str) -> str:
    """Give the text of a recipe that loads as it stands.

    Args:
        task: What the model answers.
        name: Name of the bundle.
        file: Name of the recipe file, for the comment at the top.
    """
    is_text = task is Task.TEXT_CLASSIFICATION
    steps = _STEPS.format(**(_TEXT_STEPS if is_text else _IMAGE_STEPS))
    return _HEAD.format(file=file, name=name) + (_TEXT if is_text else _IMAGE) + steps
