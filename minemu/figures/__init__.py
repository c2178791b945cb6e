"""Every plot that a notebook draws, a module a topic. Each function returns a matplotlib `Figure` and touches no global state.

overview    the whole model, batches, sequences, pictures
charts      the style of all charts; curves over steps or positions; matrices
grid        pictures in rows and columns that have names
sequences   spans and loss masks position by position, padding against packing
vision      patches, weights over a picture, nearest pictures
bridge      where each query looks, what a pooling cell averages
heads       slots overwritten, attention, two heads that take turns
gradients   which position predicts which target, which module learns from which loss
cache       what a key-value cache saves
mixture     the sources of pretraining, their documents, how rows are packed
training    losses, rates and progress of training
imagined    embeddings that the model imagined beside the true ones
diffusion   the Visual Decoder: what its codec keeps, noise schedules, loss by noise level
abilities   what one model can do: cards with verdicts, questions, few-shot prompts, blends
lora        low-rank adapters
dialogue    conversations, what the loss acts on, scores before and after tuning
scores      how sure scores are, and what they stand beside
ablations   what each variant of an ablation measured, seed by seed

Shapes, arrows and token chips, of which the drawings are made, are in `minemu.drawing`.
"""

from minemu.figures.overview import show_batch, show_model, show_pictures, show_sequence

__all__ = ["show_batch", "show_model", "show_pictures", "show_sequence"]
