"""SAM's mask decoder with the same sums in an order that costs less; segment-anything and LiteMedSAM share it.

The decoder lets some tokens (prompts and outputs) and the thousands of cells of the image attend to each other, and the
package projects every cell for that. Where there are few tokens it is cheaper to take the tokens through the projections
instead, as ``(x Wq) . (y Wk) = x . (y Wk Wq^T)``; where there are many, PyTorch's fused attention saves the maps between. The
image is enlarged in the order of memory in which its cells lie, and only the masks that are asked for are drawn.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Sets whose masks are drawn at once on a CPU.
DRAWN_AT_ONCE = 1


def prepare_for_inference(decoder: Any) -> None:
    """Make a mask decoder with its final weights faster, in place (logits equal to some millionths of the largest).

    It answers in float32 and without gradients afterwards, and does not call the transformer's inner modules, so that hooks on
    them stay silent.

    :param decoder: the package's ``MaskDecoder`` with its two-way transformer.
    """
    # On the object, not in its class: other users of the package in this process keep what they have.
    decoder.forward = partial(_forward, decoder)


def _forward(
    decoder: Any,
    image_embeddings: torch.Tensor,
    image_pe: torch.Tensor,
    sparse_prompt_embeddings: torch.Tensor,
    dense_prompt_embeddings: torch.Tensor,
    multimask_output: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Low-resolution logits ``(n, m, 4h, 4w)`` and predicted IoU ``(n, m)``; arguments as the package's ``forward`` takes them.

    :param image_embeddings: of one image, ``(1, C, h, w)``.
    :param sparse_prompt_embeddings: ``(n, t, C)``.
    :param dense_prompt_embeddings: ``(n, C, h, w)``.
    """
    import torch

    n, height, width = len(sparse_prompt_embeddings), *image_pe.shape[2:]
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([outputs.expand(n, -1, -1), sparse_prompt_embeddings], dim=1)
    cells = torch.add(_cells(image_embeddings), _cells(dense_prompt_embeddings)).contiguous()
    tokens, cells = _transform(decoder.transformer, tokens, cells, _cells(image_pe).contiguous())
    wanted = range(1, decoder.num_mask_tokens) if multimask_output else range(1)
    mask_weights = torch.stack([decoder.output_hypernetworks_mlps[mask](tokens[:, 1 + mask]) for mask in wanted], dim=1)
    predicted_iou = decoder.iou_prediction_head(tokens[:, 0])[:, wanted.start : wanted.stop]
    # The enlarged image is the largest of all; on a CPU, drawing many at once would take the room and save no time.
    at_once = DRAWN_AT_ONCE if cells.device.type == "cpu" else n
    drawn = [
        _draw(decoder.output_upscaling, some, weights, height, width)
        for some, weights in zip(torch.split(cells, at_once), torch.split(mask_weights, at_once), strict=True)
    ]
    return torch.cat(drawn), predicted_iou


def _cells(maps: torch.Tensor) -> torch.Tensor:
    """``(n, C, h, w)`` as ``(n, h * w, C)``."""
    return maps.flatten(2).transpose(1, 2)


def _transform(
    transformer: Any, tokens: torch.Tensor, cells: torch.Tensor, position: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two-way transformer.

    :param tokens: ``(n, t, C)``.
    :param cells: the image ``(n, h * w, C)``; overwritten.
    :param position: of the cells, ``(1, h * w, C)``.
    :returns: tokens and cells, processed.
    """
    import torch

    queries, placed_cells = tokens, torch.empty_like(cells)
    for block in transformer.layers:
        if block.skip_first_layer_pe:
            queries = block.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + tokens
            queries = queries + block.self_attn(q=placed, k=placed, v=queries)
        queries = block.norm1(queries)
        # The cells do not change between the two attentions, so that the sum serves both.
        torch.add(cells, position, out=placed_cells)
        queries = block.norm2(
            queries + _tokens_to_cells(block.cross_attn_token_to_image, queries + tokens, placed_cells, cells)
        )
        queries = block.norm3(queries + block.mlp(queries))
        _add_cells_to_tokens(block.cross_attn_image_to_token, placed_cells, queries + tokens, queries, cells)
        cells = block.norm4(cells)
    torch.add(cells, position, out=placed_cells)
    last = _tokens_to_cells(transformer.final_attn_token_to_image, queries + tokens, placed_cells, cells)
    return transformer.norm_final_attn(queries + last), cells


def _few(attention: Any, tokens: torch.Tensor) -> bool:
    """Whether the tokens of all heads are not more than the channels to which every cell would be projected."""
    return bool(attention.num_heads * tokens.shape[1] <= attention.internal_dim)


def _tokens_to_cells(attention: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of the tokens ``(n, t, C)`` to the cells ``(n, h * w, C)``: ``(n, t, C)``."""
    import torch

    heads = attention.num_heads
    if not _few(attention, queries):
        seen = torch.nn.functional.scaled_dot_product_attention(
            _heads(attention.q_proj(queries), heads),
            _heads(attention.k_proj(keys), heads),
            _heads(attention.v_proj(values), heads),
        )
        return attention.out_proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
    scaled = _scaled(attention, attention.q_proj(queries))
    # The keys' bias adds the same to all cells of a token, which the softmax takes out again.
    asked = torch.einsum("nhtd,hdc->nhtc", scaled, _of_heads(attention.k_proj.weight, heads)).flatten(1, 2)
    seen = torch.softmax(asked @ keys.transpose(1, 2), dim=-1) @ values
    seen = seen.reshape(len(seen), heads, -1, seen.shape[2])
    mixed = torch.einsum("nhtc,hdc->nthd", seen, _of_heads(attention.v_proj.weight, heads)).flatten(2)
    return attention.out_proj(mixed + attention.v_proj.bias)  # type: ignore[no-any-return]


def _add_cells_to_tokens(
    attention: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cells: torch.Tensor
) -> None:
    """Add the attention of the cells ``(n, h * w, C)`` to the tokens ``(n, t, C)`` to ``cells``, in place."""
    import torch

    heads = attention.num_heads
    keys, values = attention.k_proj(keys), attention.v_proj(values)
    if not _few(attention, keys):
        seen = torch.nn.functional.scaled_dot_product_attention(
            _heads(attention.q_proj(queries), heads), _heads(keys, heads), _heads(values, heads)
        )
        cells.add_(attention.out_proj(seen.transpose(1, 2).flatten(2)))
        return
    scaled = _scaled(attention, keys)
    asked = torch.einsum("nhtd,hdc->nhtc", scaled, _of_heads(attention.q_proj.weight, heads)).flatten(1, 2)
    bias = torch.einsum("nhtd,hd->nht", scaled, _of_heads(attention.q_proj.bias, heads)).flatten(1).unsqueeze(2)
    scores = torch.baddbmm(bias, asked, queries.transpose(1, 2)).reshape(len(asked), heads, -1, queries.shape[1])
    given = torch.einsum("nhtd,hdc->nhtc", _heads(values, heads), _of_heads(attention.out_proj.weight.T, heads))
    # A cell's weights of one head sum to one, so that the bias comes out once.
    given[:, 0] += attention.out_proj.bias
    cells.baddbmm_(torch.softmax(scores, dim=2).flatten(1, 2).transpose(1, 2), given.flatten(1, 2))


def _heads(channels: torch.Tensor, heads: int) -> torch.Tensor:
    """``(n, t, heads * d)`` as ``(n, heads, t, d)``."""
    return channels.reshape(*channels.shape[:2], heads, -1).transpose(1, 2)


def _of_heads(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows ``(heads * d, ...)`` of a projection as ``(heads, d, ...)``."""
    return weight.reshape(heads, -1, *weight.shape[1:])


def _scaled(attention: Any, channels: torch.Tensor) -> torch.Tensor:
    """:func:`_heads`, divided by the root of a head's channels, as attention wants one side."""
    heads = _heads(channels, attention.num_heads)
    return heads / math.sqrt(heads.shape[-1])


def _draw(upscaling: Any, cells: torch.Tensor, mask_weights: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Logits: the cells enlarged four times in height and width, and what each mask makes of them.

    A transposed convolution whose steps are its size is a product of matrices: each cell becomes 2 x 2 cells by itself.

    :param upscaling: of the decoder: transposed convolution, norm, activation, transposed convolution, activation.
    :param cells: ``(n, h * w, C)``.
    :param mask_weights: weight of each channel in each mask, as the decoder's hypernetworks give them, ``(n, m, C / 8)``.
    :returns: ``(n, m, 4h, 4w)``.
    """
    import torch

    first, norm, activation, second, last_activation = upscaling
    finer = _enlarge(first, cells)
    finer = activation(torch.nn.functional.layer_norm(finer, finer.shape[-1:], norm.weight, norm.bias, norm.eps))
    finest = last_activation(_enlarge(second, finer))
    logits = mask_weights @ finest.transpose(1, 2)
    # Row and column of a cell, then those within it, and within these.
    parts = logits.reshape(*logits.shape[:2], height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
    drawn: torch.Tensor = parts.reshape(*logits.shape[:2], 4 * height, 4 * width)
    return drawn


def _enlarge(convolution: Any, cells: torch.Tensor) -> torch.Tensor:
    """``(n, k, C)`` to ``(n, 4k, D)``: the four of a cell follow each other, row by row."""
    import torch

    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    finer = torch.nn.functional.linear(cells, weight, convolution.bias.repeat(4))
    return finer.reshape(len(finer), 4 * finer.shape[1], -1)
