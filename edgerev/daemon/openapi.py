"""The description of the HTTP interface, OpenAPI 3.1, for the model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgerev import __version__
from edgerev.daemon.schema import KEY_BYTES
from edgerev.daemon.values import Values
from edgerev.numbers import FLOAT32_MAX

Schema = dict[str, Any]
JSON, NPZ, TEXT = "application/json", "application/x-npz", {"type": "string"}
NUMBER, COUNT = {"type": "number"}, {"type": "integer", "minimum": 0}
COUNTS = {"type": "object", "additionalProperties": COUNT}
ID = {"type": "integer", "minimum": 1, "maximum": (1 << 63) - 1}
ERRORS = {
    "400": "It does not fit; nothing of it was taken in", "401": "The token is missing or wrong",
    "403": "The host or the origin is another", "413": "The body is too large", "415": "The body is of another type",
    "429": "Too many samples wait, or came at once; nothing was taken in", "431": "The headers are too large",
    "500": "A defect of the daemon", "503": "The disk cannot be written, or too many ask at once",
}  # fmt: skip
OF_GET = ("401", "403", "431", "500", "503")  # a body is never looked at


def description(values: Values, most_samples: int, controls: list[str]) -> Schema:
    """Return the description as JSON has it.

    Parameters
    ----------
    values : of the model: the shape of a sample, the names of the classes
    most_samples : that a request may have
    controls : what training may be asked to do
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgerev", "version": __version__, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Keeps a model fitted to the place where it runs.",
        },
        "paths": _posts(values, most_samples, controls) | _gets(),
        "components": {
            "schemas": {"Error": _object(error=TEXT)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }  # fmt: skip


def _posts(values: Values, most_samples: int, controls: list[str]) -> Schema:
    row, label, ids = _row(values), _label(values), _list(ID)
    key = {"type": ["string", "null"], "minLength": 1, "maxLength": KEY_BYTES, "description": "In UTF-8, of bytes"}
    sample = _object({"x"}, x=row, y={"anyOf": [label, {"type": "null"}]}, key=key)
    samples = _object(samples={**_list(sample), "maxItems": most_samples})
    labels = _object(labels=_list(_object(id=ID, y=label)))
    predictions = _list(_object(answer=label, probabilities=_list(NUMBER)))
    posts = {
        "samples": ("Take samples in; answer once they are on the disk", samples, "202", _object(ids=ids)),
        "labels": ("Give samples their labels; name those that are unknown", labels, "200", _object(unknown=ids)),
        "predict": ("Answer", _object(samples=_list(row)), "200", _object(predictions=predictions)),
        "control": ("Let training wait or go on, or save", _object(do={"enum": controls}), "200", STATUS),
    }
    paths = {}
    for name, (summary, asked, code, told) in posts.items():
        content = {JSON: {"schema": asked}}
        if name in ("samples", "predict"):
            content[NPZ] = {"schema": {"description": "A file as numpy.savez writes it: x, and at will y and key"}}
        body = {"required": True, "content": content}
        paths[f"/v1/{name}"] = {"post": _operation(name, summary, {code: (JSON, told)}, ERRORS) | {"requestBody": body}}
    return paths


def _gets() -> Schema:
    gets = {
        "/v1/status": ("status", "How the daemon is", JSON, STATUS),
        "/v1/history": ("history", "How well the model did since the start", JSON, HISTORY),
        "/v1/events": ("events", "Server-sent events: event, and each second status", "text/event-stream", TEXT),
        "/v1/openapi.json": ("describe", "This description", JSON, {"type": "object"}),
        "/v1/model": ("model", "A checkpoint of the model as it is now", "application/octet-stream", {}),
        "/metrics": ("metrics", "Metrics in the text format of Prometheus", "text/plain", TEXT),
    }
    errors = {code: ERRORS[code] for code in OF_GET}
    return {
        path: {"get": _operation(name, summary, {"200": (kind, schema)}, errors)}
        for path, (name, summary, kind, schema) in gets.items()
    }


def _operation(name: str, summary: str, good: Mapping[str, tuple[str, Schema]], errors: Mapping[str, str]) -> Schema:
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    answers: Schema = {code: {"description": text, "content": error} for code, text in errors.items()}
    for code, (kind, schema) in good.items():
        answers[code] = {"description": summary, "content": {kind: {"schema": schema}}}
    for code in answers.keys() & {"429", "503"}:
        answers[code]["headers"] = {"Retry-After": {"description": "Seconds", "schema": {**COUNT, "minimum": 1}}}
    return {"operationId": name, "summary": summary, "responses": answers}


def _row(values: Values) -> Schema:
    """Return the schema of a sample: flat, or nested as its shape is."""
    number = {**NUMBER, "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX}
    flat = {"type": "array", "items": number, "minItems": values.elements, "maxItems": values.elements}
    if len(values.shape) == 1:
        return flat
    nested: Schema = number
    for size in reversed(values.shape):
        nested = {"type": "array", "items": nested, "minItems": size, "maxItems": size}
    return {"anyOf": [flat, nested]}


def _label(values: Values) -> Schema:
    number = {**COUNT, "maximum": values.outputs - 1}
    return {"anyOf": [{"enum": list(values.classes)}, number]} if values.classes else number


def _object(required: set[str] | None = None, /, **properties: Schema) -> Schema:
    """Return the schema of an object with these keys and no others."""
    names = [name for name in properties if required is None or name in required]
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _count(description: str) -> Schema:
    return {**COUNT, "description": description}


def _or_null(kind: str) -> Schema:
    return {"type": [kind, "null"]}


STATUS = {
    **_object(
        batch=_count("Samples that are learned at once"),
        to_learn=_count("Samples with a label that are still to be learned; fewer than a batch wait for others"),
        unlabelled=_count("Samples that wait for a label"),
        unsaved=_count("Samples learned since the newest generation; after a power cut they are learned again"),
        most_samples=_count("So many of these three kinds may be there together, less one in 16"),
        steps=COUNT, trained=_count("Number of the last sample that was learned"), commits=COUNT, arena_bytes=COUNT,
        saved=_count("Number of the last sample that the newest generation learned"),
        generation=_count("Number of the generation of the model that was written or loaded last"),
        drifts=COUNT, rollbacks=COUNT, refused_batches=COUNT, usual_accuracy=_or_null("number"), guard_bytes=COUNT,
        problem=TEXT, problems=_list(TEXT), store_problem=TEXT, syncs=COUNT, waits_for=TEXT, counts=COUNTS,
        uptime_seconds=NUMBER, rss_bytes=COUNT, peak_rss_bytes=COUNT,
        written_bytes=_or_null("integer"), celsius=_or_null("number"), memory_limit=_or_null("integer"),
        regions=COUNTS, events=COUNTS,
        samples_per_second=NUMBER, latest=_or_null("array"), last_window=_or_null("array"),
        answers=_list({"type": "array"}), model=TEXT, version=TEXT, controls=_list(TEXT),
    ),
    "additionalProperties": True,
}  # fmt: skip
HISTORY = _object(points=_list({"type": "array"}), marks=_list({"type": "array"}))
