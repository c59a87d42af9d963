import jax
import pytest

from resnet_jax.diagnostics.hlo import Collective, parse_collectives, summarize_by_kind
from resnet_jax.runtime import cpu_tuning
from resnet_jax.training.experiment import build_abstract
from resnet_jax.training.train_step import lower_train_step


@pytest.mark.parametrize(
    ("line", "kind", "arrays", "size"),
    [
        ("%all-reduce.3 = f32[] all-reduce(%x), channel_id=1, to_apply=%add", "all-reduce", [("f32", ())], 4),
        ("ROOT %ar = (f32[64]{0}, bf16[3,3,8,16]{3,2,1,0:T(8,128)(2,1)S(1)}) all-reduce(%a, %b), to_apply=%add",
         "all-reduce", [("f32", (64,)), ("bf16", (3, 3, 8, 16))], 64 * 4 + 3 * 3 * 8 * 16 * 2),
        ("all-gather.7 = pred[8,2]{1,0} all-gather(p.1), dimensions={0}", "all-gather", [("pred", (8, 2))], 16),
        ("%rs = f32[16]{0} reduce-scatter(f32[128]{0} %x), to_apply=%add", "reduce-scatter", [("f32", (16,))], 64),
        ("%a2a = (s8[4]{0}, /*index=1*/s8[4]{0}) all-to-all(%a, %b)", "all-to-all", [("s8", (4,))] * 2, 8),
        ("%cp = f8e4m3fn[32]{0} collective-permute(%x)", "collective-permute", [("f8e4m3fn", (32,))], 32),
    ],
)  # fmt: skip
def test_parse_collectives_reads_kind_dtypes_shapes_and_bytes(line, kind, arrays, size):
    (collective,) = parse_collectives(f"ENTRY %main {{\n  {line}\n}}")
    assert collective == Collective(kind, tuple(arrays))
    assert collective.bytes == size


@pytest.mark.parametrize(
    ("start", "arrays"),
    [
        ("(f32[8]{0}, f32[2,2]{1,0}) all-reduce-start(%a, %b)", [("f32", (8,)), ("f32", (2, 2))]),
        ("(f32[8]{0}, f32[64]{0}) all-gather-start(%a)", [("f32", (64,))]),
        ("((f32[8]{0}, u8[2]{0}), (f32[64]{0}, u8[16]{0})) all-gather-start(%a, %b)", [("f32", (64,)), ("u8", (16,))]),
        ("(f32[4,2]{1,0:T(2,128)}, f32[4,2]{1,0}, u32[], u32[]) collective-permute-start(%a)", [("f32", (4, 2))]),
    ],
)
def test_parse_collectives_counts_an_asynchronous_collective_once_by_its_results(start, arrays):
    kind = start.partition("-start(")[0].split(" ")[-1]
    hlo = f"  %x.1 = {start}, channel_id=2\n  %y = f32[64]{{0}} {kind}-done(%x.1)\n"
    assert parse_collectives(hlo) == [Collective(kind, tuple(arrays), asynchronous=True)]


def test_parse_collectives_reads_the_exchange_between_slices_from_its_send():
    hlo = """
      %send.1 = (f32[32,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%bitcast, %after-all), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}, backend_config={}
      %send-done.1 = token[] send-done(%send.1), channel_id=2, is_host_transfer=true
    """
    between = Collective("all-reduce", (("f32", (32, 8, 128)),), asynchronous=True, between_slices=True)
    assert parse_collectives(hlo) == [between]


def test_parse_collectives_ignores_names_of_instructions_operands_and_sources():
    hlo = """
      %all-reduce.1 = f32[8]{0} fusion(%all-gather.2), kind=kLoop, calls=%all-reduce.5
      %add.1 = (f32[8]{0}, f32[]) fusion(%p), metadata={op_name="jit(f)/a = b all-reduce(x)"}
      %get = f32[8]{0} get-tuple-element(%all-reduce-start.4), index=0
      %copy-start.1 = (f32[8]{0}, f32[8]{0}, u32[]{:S(2)}) copy-start(%p)
      %all-reduce.9 = f32[2]{0} all-reduce(%q), to_apply=%add
    """
    assert parse_collectives(hlo) == [Collective("all-reduce", (("f32", (2,)),))]


def test_summarize_by_kind_sums_counts_and_bytes():
    all_reduce = Collective("all-reduce", (("f32", (2,)),))
    all_gather = Collective("all-gather", (("s8", (3,)),), asynchronous=True)
    assert summarize_by_kind([all_reduce, all_gather, all_reduce]) == [
        {
            "kind": "all-gather",
            "between_slices": False,
            "count": 1,
            "asynchronous": 1,
            "bytes": 3,
            "by_type": {"s8": 3},
        },
        {
            "kind": "all-reduce",
            "between_slices": False,
            "count": 2,
            "asynchronous": 0,
            "bytes": 16,
            "by_type": {"f32": 16},
        },
    ]
    assert summarize_by_kind([]) == []


@pytest.mark.parametrize(
    ("feed", "tuned"),
    [("resident", False), ("streaming", False), ("resident", True)],
    ids=["resident", "streaming", "tuned"],
)
def test_train_step_exchanges_only_gradients_and_batch_statistics(tiny_config, mesh, feed, tuned, monkeypatch):
    """The devices exchange no images, activations or parameters. Beside the gradients, they sum numbers per channel."""
    monkeypatch.setattr(cpu_tuning, "_is_tuned", tuned)
    tiny_config.dataset.feed = feed
    experiment = build_abstract(tiny_config, mesh)
    hlo = lower_train_step(experiment).compile().as_text()
    (summary,) = summarize_by_kind(parse_collectives(hlo))
    assert summary["kind"] == "all-reduce"
    state = experiment.abstract_state()
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(state.params))
    statistics = sum(4 * leaf.size for leaf in jax.tree.leaves(state.batch_stats))
    assert gradients + statistics <= summary["bytes"] <= gradients + 2 * statistics + 64
