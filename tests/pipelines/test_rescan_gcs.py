"""Scans of a bucket, night after night: from gs:// to gs://, and only what is new is read."""

import contextlib
import io
import json

import duckdb
import emulators
import pyarrow.parquet as pq
import pytest
from conftest import FULL, encode, photo, tiny
from emulators import Bucket, CountingProxy

import mdmf_ops.cli
from mdmf_ops.beam import gcs
from mdmf_ops.beam.commit import read_manifest, read_manifests
from mdmf_ops.beam.runs import latest_rows, latest_sql, strays, verify_run
from mdmf_ops.schema import SCHEMA
from model_assets import embedded
from pipelines import rescan

IMAGES = 2000 if FULL else 500


def scan(source, output, run_id, **options):
    """Runs a rescan in this process; returns its manifest and its metrics."""
    options = {"device": "cpu", "runner": "FnApiRunner", "run_id": run_id} | options
    options = rescan.RescanOptions([], input=[source], output=output, **options)
    run = rescan.prepare(options)
    result = rescan.launch(run, options)
    result.wait_until_finish()
    return read_manifest(run), result.metrics()


def counters(metrics):
    found = {result.key.metric.name: result.committed for result in metrics.query()["counters"]}
    return {name: value for name, value in found.items() if name.startswith(("images_", "bytes_")) and value}


def read_all(output):
    """Rows of every data file of a committed run, through the store."""
    rows = []
    for manifest in read_manifests(output):
        for file in manifest["files"]:
            with gcs.open_object(f"{output}/{file['path']}") as opened:
                rows += pq.read_table(opened).to_pylist()
    return rows


@pytest.fixture(scope="module")
def proxy():
    with emulators.fake_gcs_server() as url, CountingProxy(url) as proxy, emulators.environment(proxy.url):
        yield proxy


def test_a_thousand_objects_from_bucket_to_bucket_are_a_thousand_rows(proxy):
    bucket, scores = Bucket("thousand"), Bucket("scores")
    for i in range(1000):
        bucket.put(f"in/{i % 7}/{i:04d}.png", tiny(i) if i % 100 else b"no image")
    proxy.reset()
    output = scores.uri("out")
    manifest, metrics = scan(bucket.uri("in/"), output, "r1", num_shards=3)

    assert manifest["counts"]["status"] == {"failed": 10, "scored": 990}
    assert manifest["inputs"] == 1000 and manifest["skipped"] == 0
    assert {name: count for name, count in proxy.media.items() if name.startswith("in/")} == dict.fromkeys(
        bucket.names("in/"), 1
    )
    rows = read_all(output)
    assert sorted(row["image_uri"] for row in rows) == [bucket.uri(name) for name in bucket.names("in/")]
    assert all(row["image_generation"] and row["image_modified_at"] for row in rows)
    assert scores.names() == sorted(["out/_runs/r1.json", *(f"out/{file['path']}" for file in manifest["files"])])
    assert verify_run(output, manifest) == [] and strays(output) == []
    bounds = []
    for file in manifest["files"]:
        with gcs.open_object(f"{output}/{file['path']}") as opened:
            column = pq.read_metadata(opened).row_group(0).column(SCHEMA.get_field_index("image_uri"))
            bounds.append((column.statistics.min, column.statistics.max))
    assert all(before[1] < after[0] for before, after in zip(sorted(bounds), sorted(bounds)[1:], strict=False))
    assert manifest["bytes_read"] == sum(row["image_bytes"] for row in rows)
    assert counters(metrics) == {
        "images_listed": 1000,
        "images_scored": 990,
        "images_scored_on_cpu": 990,
        "images_failed_unsupported_format": 10,
        "bytes_read": manifest["bytes_read"],
    }
    distributions = {result.key.metric.name: result.committed for result in metrics.query()["distributions"]}
    assert distributions["read_us"].count == 1000
    assert distributions["image_bytes"].sum == manifest["bytes_read"]
    for name in ("decode_us", "score_us"):
        assert distributions[name].count == 990
        durations_us = [row[name] for row in rows if row["status"] == "scored"]
        assert manifest["timings"][name] == {"sum": sum(durations_us), "max": max(durations_us)}
        assert distributions[name].sum == sum(durations_us)


def test_the_second_night_reads_what_is_new_and_latest_shows_the_truth(proxy, tmp_path):
    new, overwritten, deleted = IMAGES // 40, IMAGES * 3 // 200, IMAGES // 100
    bucket, output = Bucket("nights"), str(tmp_path)
    for i in range(IMAGES):
        bucket.put(f"in/{i:04d}.png", tiny(i))
    scan(bucket.uri("in/"), output, "night-1", skip_unchanged=output)
    for i in range(IMAGES, IMAGES + new):
        bucket.put(f"in/{i:04d}.png", tiny(i))
    for i in range(overwritten):
        bucket.put(f"in/{i:04d}.png", tiny(3000 + i))
    gone = [f"in/{i:04d}.png" for i in range(overwritten, overwritten + deleted)]
    for name in gone:
        bucket.delete(name)
    proxy.reset()
    manifest, metrics = scan(bucket.uri("in/"), output, "night-2", skip_unchanged=output)

    assert sum(proxy.media.values()) == new + overwritten
    assert (manifest["inputs"], manifest["skipped"]) == (IMAGES + new - deleted, IMAGES - deleted - overwritten)
    assert manifest["counts"]["status"] == {"scored": new + overwritten}
    assert counters(metrics)["images_skipped"] == manifest["skipped"]

    latest = {row["image_uri"]: row for row in latest_rows(output)}
    assert latest.keys() == {bucket.uri(name) for name in [*bucket.names("in/"), *gone]}
    truth = {bucket.uri(name): gcs.stat_object(bucket.uri(name)).generation for name in bucket.names("in/")}
    assert {uri: latest[uri]["image_generation"] for uri in truth} == truth
    fresh = {uri for uri, row in latest.items() if row["run_id"] == "night-2"}
    assert len(fresh) == new + overwritten

    query = duckdb.sql(latest_sql(output))
    sql = [dict(zip(query.columns, row, strict=True)) for row in query.fetchall()]
    assert [(row["image_uri"], row["run_id"], row["image_generation"]) for row in sql] == [
        (row["image_uri"], row["run_id"], row["image_generation"]) for row in latest.values()
    ]

    # The same run once more: it skips what it skipped, though its own rows lie in the output.
    proxy.reset()
    again, _ = scan(bucket.uri("in/"), output, "night-2", skip_unchanged=output)
    assert again["counts"] == manifest["counts"] and sum(proxy.media.values()) == new + overwritten
    # A third night finds nothing to do, and says so in a run without a file.
    third, _ = scan(bucket.uri("in/"), output, "night-3", skip_unchanged=output)
    assert (third["skipped"], third["files"]) == (third["inputs"], [])


def test_an_object_overwritten_between_listing_and_reading_is_a_failed_row_and_next_night_scored(proxy, tmp_path):
    bucket = Bucket("moving")
    generations = {name: bucket.put(name, tiny(i)) for i, name in enumerate(("a.png", "b.png", "c.png"))}

    def overwrite(kind, name):
        if kind == "media" and name == "b.png" and proxy.media["b.png"] == 1:
            bucket.put("b.png", tiny(9))

    proxy.reset()
    proxy.before = overwrite
    try:
        manifest, _ = scan(bucket.uri(), str(tmp_path), "r1")
    finally:
        proxy.before = lambda _kind, _name: None
    assert manifest["counts"]["error_code"] == {"changed": 1}
    rows = {row["image_uri"]: row for row in latest_rows(str(tmp_path))}
    assert rows[bucket.uri("b.png")]["image_generation"] == generations["b.png"]
    assert rows[bucket.uri("a.png")]["status"] == "scored"
    manifest, _ = scan(bucket.uri(), str(tmp_path), "r2", skip_unchanged=str(tmp_path))
    assert (manifest["skipped"], manifest["counts"]["status"]) == (2, {"scored": 1})


def test_a_list_of_named_objects_skips_what_is_unchanged(proxy, tmp_path):
    bucket = Bucket("named")
    for i in range(3):
        bucket.put(f"{i}.png", tiny(i))
    (tmp_path / "list.txt").write_text("\n".join(bucket.uri(f"{i}.png") for i in range(4)))
    options = {"input_list": [str(tmp_path / "list.txt")], "skip_unchanged": str(tmp_path / "out")}

    def scan_list(run_id):
        asked = {"output": str(tmp_path / "out"), "run_id": run_id, "runner": "FnApiRunner"} | options
        prepared = rescan.RescanOptions([], **asked)
        run = rescan.prepare(prepared)
        rescan.launch(run, prepared).wait_until_finish()
        return read_manifest(run)

    first = scan_list("r1")
    assert (first["counts"]["status"], first["counts"]["error_code"]) == ({"failed": 1, "scored": 3}, {"not_found": 1})
    bucket.put("1.png", tiny(8))
    second = scan_list("r2")
    assert (second["skipped"], second["counts"]["status"]) == (2, {"failed": 1, "scored": 1})


def test_a_detector_in_a_bucket_scores_as_the_same_one_on_disk(proxy, tmp_path):
    bucket = Bucket("detectors")
    for file in embedded().iterdir():
        bucket.put(f"micro/{file.name}", file.read_bytes())
    bucket.put("in/a.png", tiny(1))
    scan(bucket.uri("in/"), str(tmp_path), "disk")
    manifest, _ = scan(bucket.uri("in/"), str(tmp_path), "bucket", assets=bucket.uri("micro"))
    again, _ = scan(bucket.uri("in/"), str(tmp_path), "r3", assets=bucket.uri("micro"), skip_unchanged=str(tmp_path))
    assert (again["skipped"], manifest["counts"]["status"]) == (1, {"scored": 1})
    rows = duckdb.sql(f"select distinct row_id, mmd2 from read_parquet('{tmp_path}/**/*.parquet')").fetchall()
    assert len(rows) == 1


def test_the_command_scans_lists_verifies_and_cleans_a_bucket(proxy, tmp_path):
    bucket, output = Bucket("commands"), "gs://commands/out"
    for i in range(4):
        bucket.put(f"in/{i}.png", tiny(i))
    bucket.put("out/scan_date=2020-01-01/killed-00000-of-00001.parquet", b"half a file")

    def mdmf(*arguments):
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            status = mdmf_ops.cli.main([*arguments, "--json"])
        return status, text.getvalue()

    status, text = mdmf("scan", "gs://commands/in", "--output", output, "--run_id", "r1", "--workers", "1")
    assert status == 0 and json.loads(text)["counts"]["status"] == {"scored": 4}
    assert [run["run_id"] for run in json.loads(mdmf("runs", "list", output)[1])] == ["r1"]
    status, text = mdmf("runs", "verify", output)
    assert (status, json.loads(text)["runs"], len(json.loads(text)["strays"])) == (0, {"r1": []}, 1)
    mdmf("runs", "gc", output)
    assert any("killed" in name for name in bucket.names("out/"))  # it is not a day old yet
    mdmf("runs", "gc", output, "--older_than_h", "0")
    assert not any("killed" in name for name in bucket.names("out/"))
    assert [json.loads(line)["image_uri"] for line in mdmf("latest", output)[1].splitlines()] == [
        bucket.uri(f"in/{i}.png") for i in range(4)
    ]
    [file] = [name for name in bucket.names("out/") if name.endswith(".parquet")]
    bucket.put(file, encode(photo(1)))
    assert mdmf("runs", "verify", output)[0] == 1
