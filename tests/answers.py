"""The questions of docs/sql.md, answered in Python: from rows that were read without SQL."""

import math
from collections import Counter, defaultdict
from statistics import mean, median


def in_time(rows):
    return sorted(rows, key=lambda row: (row["scanned_at"], row["run_id"]))


def newest(rows, *keys):
    return [in_time(group)[-1] for group in grouped(rows, *(keys or ["image_uri"])).values()]


def scored(rows):
    return [row for row in rows if row["status"] == "scored"]


def grouped(rows, *keys):
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(key(row) if callable(key) else row[key] for key in keys)].append(row)
    return groups


def flagged(rows):
    return sum(row["verdict"] == "likely_ai" for row in rows)


def columns(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


def history(rows):
    """The two newest scores of each image that has as many."""
    of_image = grouped(scored(rows), "image_uri").values()
    return [in_time(group)[-2:] for group in of_image if len(group) > 1]


def newest_verdicts(rows):
    names = ("image_uri", "status", "verdict", "p_value", "scanned_at", "detector_id")
    return sorted(columns(newest(rows), *names))


def flag_rates(rows):
    groups = grouped(newest(scored(rows), "week", "image_uri"), "week", "folder")
    return [(*key, len(g), flagged(g), round(flagged(g) / len(g), 4)) for key, g in sorted(groups.items())]


def excess(rows):
    def quality_from(row):
        return "none" if row["jpeg_quality"] is None else str(row["jpeg_quality"] // 10 * 10)

    found = []
    for key, group in grouped(scored(newest(rows)), "detector_id", "image_format", quality_from).items():
        rate, alpha = flagged(group) / len(group), mean(row["alpha"] for row in group)
        if flagged(group) >= 5:
            found.append((*key, len(group), rate, (rate - alpha) / math.sqrt(alpha * (1 - alpha) / len(group))))
    return sorted(found, key=lambda row: (-row[5], *row[:3]))


def changes(rows):
    pairs = Counter()
    for of_content in grouped(scored(rows), "image_sha256").values():
        of_detector = newest(of_content, "detector_id")
        for before in of_detector:
            for after in of_detector:
                if before["scanned_at"] < after["scanned_at"]:
                    key = (before["detector_id"], after["detector_id"], before["verdict"], after["verdict"])
                    pairs[key] += 1
    return sorted((*key, count) for key, count in pairs.items())


def newly_flagged(rows):
    found = []
    for before, after in history(rows):
        if after["verdict"] == "likely_ai" and before["verdict"] != "likely_ai":
            why = "another device, precision or version" if after["alpha"] == before["alpha"] else "another alpha"
            if after["image_sha256"] != before["image_sha256"]:
                why = "another picture"
            elif after["detector_id"] != before["detector_id"]:
                why = "another detector"
            found.append((after["image_uri"], before["verdict"], after["p_value"], why))
    return sorted(found)


def record(rows):
    uri = min(row["image_uri"] for row in newest(rows) if row["verdict"] == "likely_ai")
    found = sorted((row for row in rows if row["image_uri"] == uri), key=lambda row: row["scanned_at"])
    return columns(
        found,
        *("scanned_at", "run_id", "row_id", "image_generation", "image_sha256", "mmd2", "p_value", "alpha", "verdict"),
        *("detector_id", "signature_sha256", "bank_sha256", "calibration_id", "device", "precision"),
        *("declared_source", "c2pa_signature"),
    )


def strongest_patches(rows):
    picture = min(scored(newest(rows)), key=lambda row: (row["p_value"], row["image_uri"]))
    evidence, found = iter(picture["patch_evidence"]), []
    for tile in picture["tiles"]:
        for i in range(picture["grid_rows"]):
            for j in range(picture["grid_cols"]):
                top, left = tile["top_px"] + i * picture["patch_px"], tile["left_px"] + j * picture["patch_px"]
                found.append((picture["image_uri"], top, left, next(evidence)))
    return sorted(found, key=lambda row: (-row[3], row[1], row[2]))[:10]


def drift(rows):
    found, before = [], {}
    of_week = newest(scored(rows), "week", "image_uri", "detector_id")
    for (*stratum, week), group in sorted(grouped(of_week, "detector_id", "image_format", "week").items()):
        now = median(row["mmd2"] for row in group)
        short = median(min(row["width_px"], row["height_px"]) for row in group)
        change = now - before[tuple(stratum)] if tuple(stratum) in before else None
        found.append((week, *stratum, len(group), now, change, short))
        before[tuple(stratum)] = now
    return found


def tenths(rows):
    counts = Counter((row["detector_id"], min(int(row["p_value"] * 10), 9)) for row in scored(newest(rows)))
    return sorted((*key, count) for key, count in counts.items())


def cost(rows):
    found = []
    for (run_id,), group in sorted(grouped(rows, "run_id").items()):
        hours = sum(row[name] or 0 for row in group for name in ("decode_us", "declared_us")) / 3.6e9
        hours += sum(row["score_us"] or 0 for row in group if row["device"] in ("cpu", None)) / 3.6e9
        done = len(scored(group))
        read = sum(row["image_bytes"] for row in group if row["image_sha256"])
        found.append((run_id, done, hours, round(done / hours) if hours else None, read))
    return found


def failures(rows):
    failed = [row for row in rows if row["status"] == "failed"]
    of_run = Counter(row["run_id"] for row in failed)
    found = []
    for (run_id, code), group in grouped(failed, "run_id", "error_code").items():
        example = min(group, key=lambda row: row["image_uri"])
        share = len(group) / of_run[run_id]
        found.append((run_id, code, len(group), share, example["image_uri"], example["error_message"]))
    return sorted(found, key=lambda row: (row[0], -row[2], row[1]))


def never_scored(rows):
    found = []
    for (uri,), group in sorted(grouped(rows, "image_uri").items()):
        if not scored(group):
            last = newest(group)[0]
            found.append((uri, len(group), last["scanned_at"], last["error_code"]))
    return found


def provenance(rows):
    says = (
        (row["declared_source"] or "nothing", row["c2pa_signature"] or "none", row["verdict"] or "failed")
        for row in newest(rows)
    )
    return sorted((*key, count) for key, count in Counter(says).items())


def disagreements(rows):
    camera = ("digitalCapture", "computationalCapture")
    generated = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
    found = [
        row
        for row in newest(rows)
        if row["declared_source"] in (camera if row["verdict"] == "likely_ai" else generated) and row["verdict"]
    ]
    found.sort(key=lambda row: (row["verdict"], row["p_value"], row["image_uri"]))
    names = ("image_uri", "verdict", "p_value", "declared_source", "declared_by", "declared_software", "c2pa_signature")
    return columns(found, *names)


def copies(rows):
    groups = grouped((row for row in newest(rows) if row["image_sha256"]), "image_sha256")
    found = [
        (sha256, len(g), min(row["image_uri"] for row in g), len({row["verdict"] for row in g} - {None}))
        for (sha256,), g in groups.items()
        if len(g) > 1
    ]
    return sorted(found, key=lambda row: (-row[1], row[0]))


ANSWERS = {
    "What is the newest verdict of every image?": newest_verdicts,
    "How many images are flagged, by week and source?": flag_rates,
    "Where is the flag rate far above alpha?": excess,
    "What changed between two detectors?": changes,
    "Which images are flagged now and were not before?": newly_flagged,
    "Someone disputes a verdict: what is on record?": record,
    "Where in an image does the score come from?": strongest_patches,
    "Do the images drift?": drift,
    "Are the p-values of a known source even?": tenths,
    "What does a scan cost?": cost,
    "What failed, and why?": failures,
    "Which images has no run ever scored?": never_scored,
    "What do files say of themselves, against the verdict?": provenance,
    "Which images do verdict and declaration disagree on?": disagreements,
    "Which pictures are there more than once?": copies,
    "Is every run whole?": lambda rows: [],
}
