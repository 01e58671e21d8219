"""The page of one scan, and its pictures: by the id of a known scan, never by a path, and never the file itself."""

from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from db.marks import list_marks
from db.registry import read_card
from db.runs import find_run
from db.scan_record import ScanFile, find_scan_file, read_scan_record
from nightread.scan.picture import Window, encode_png
from web.filters import read_filter
from web.lookup import read_scan_id, reading_request, unknown_scan
from web.pictures import SIDES_PX, PictureMissing, Pictures
from web.reason_page import explain_reason
from web.showing import link_viewer, render
from web.stored_card import list_alternatives, read_choices, read_labels, read_thresholds

#: Limits of a window, in percent of the scan's range from black to white.
_CENTERS, _WIDTHS = (-100.0, 200.0), (1.0, 300.0)
#: Longest side of the layer of evidence.
_EVIDENCE_PX: Final = 256
#: Whether a mark leads to the next scan, `1` or `0`; the page's script sets it.
ADVANCE_COOKIE: Final = "nightread_advance"
_GATE_OFF: Final = "the card of this model has no input gate"


def show_scan(request: Request) -> Response:
    """Show one scan: picture, score and what it means, the gate's verdict, provenance, other models and runs."""
    scan_id = read_scan_id(request)
    window, back_query = _read_window(request), read_filter(request.query_params).to_query()
    with reading_request(request) as connection:
        file, record = find_scan_file(connection, scan_id), read_scan_record(connection, scan_id)
        if file is None or record is None:
            raise unknown_scan()
        run = find_run(connection, record.scan["run_id"])
        card = read_card(connection, run.model_digest)
        marked = list_marks(connection, scan_id)
    labels = read_labels(card)
    mapped = request.query_params.get("map")
    if mapped and mapped not in labels:
        raise HTTPException(400, f"The model has no label “{mapped[:64]}”; it has {', '.join(labels)}.")
    pictures: Pictures = request.app.state.pictures
    why, scale, evidence_why = "", None, ""
    try:
        pictures.check(file)
    except PictureMissing as missing:
        why = str(missing)
    if mapped and not why:
        try:
            evidence = pictures.find_evidence(file)
            strongest = evidence.strongest(labels.index(mapped))
            scale = {"strongest": strongest, "is_occlusion": evidence.is_occlusion, "shape": evidence.values.shape}
        except PictureMissing as missing:
            evidence_why = str(missing)
    return render(
        request,
        "scan.html",
        run=run,
        back_query=back_query,
        marked=marked,
        alternatives=list_alternatives([row["decision"] for row in record.scores], read_choices(card)),
        then="stay" if request.cookies.get(ADVANCE_COOKIE) == "0" else "next",
        scan=record.scan,
        record=record,
        why_missing=why,
        window=window,
        picture_query=_to_query(window),
        viewer=link_viewer(request.app.state.settings, record.scan["study_uid"]),
        labels=labels,
        mapped=mapped,
        scale=scale,
        evidence_why=evidence_why,
        thresholds=read_thresholds(card),
        calibration=str(card.get("calibration") or ""),
        verdict=_explain_verdict(record.measured),
        meaning=_explain_reason(record.scan["reason_code"]),
    )


def send_picture(request: Request) -> Response:
    """Send the picture of a scan as PNG, in a window of gray levels that the server applies to all its bits."""
    window, size = _read_window(request), request.query_params.get("size") or "screen"
    if size not in SIDES_PX:
        raise HTTPException(400, f"The size is “{size[:20]}”; allowed are {', '.join(SIDES_PX)}.")
    file = _find_file(request)
    try:
        picture = request.app.state.pictures.find_picture(file, size)
    except PictureMissing as missing:
        return _refuse(missing)
    return Response(encode_png(picture.show(window)), media_type="image/png")


def send_thumbnail(request: Request) -> Response:
    """Send the thumbnail of a scan as WebP; nothing of a scan that cannot be drawn, as a worklist holds such scans."""
    file = _find_file(request)
    try:
        thumbnail = request.app.state.pictures.find_thumbnail(file)
    except PictureMissing:
        return Response(status_code=204)
    return Response(thumbnail, media_type="image/webp")


def send_evidence(request: Request) -> Response:
    """Send the evidence for a label as a layer over the picture: PNG with opacity."""
    file, label = _find_file(request), request.query_params.get("label", "")
    with reading_request(request) as connection:
        labels = read_labels(read_card(connection, file.model_digest))
    if label not in labels:
        raise HTTPException(400, f"The model has no label “{label[:64]}”; it has {', '.join(labels)}.")
    pictures: Pictures = request.app.state.pictures
    try:
        evidence, picture = pictures.find_evidence(file), pictures.find_picture(file, "screen")
    except PictureMissing as missing:
        return _refuse(missing)
    height, width = picture.levels.shape
    shrink = min(1.0, _EVIDENCE_PX / max(height, width))  # it is smooth: the browser enlarges it
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return Response(encode_png(evidence.draw(labels.index(label), size)), media_type="image/png")


def _find_file(request: Request) -> ScanFile:
    scan_id = read_scan_id(request)
    with reading_request(request) as connection:
        file = find_scan_file(connection, scan_id)
    if file is None:
        raise unknown_scan()
    return file


def _refuse(missing: PictureMissing) -> Response:
    return PlainTextResponse(f"{missing}\n", 410)


def _read_window(request: Request) -> Window:
    parameters = request.query_params
    return Window(
        _read_percent("center", parameters.get("center"), 50.0, _CENTERS) / 100,
        _read_percent("width", parameters.get("width"), 100.0, _WIDTHS) / 100,
        invert=parameters.get("invert") == "1",
    )


def _read_percent(name: str, text: str | None, default: float, allowed: tuple[float, float]) -> float:
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    low, high = allowed
    if not low <= value <= high:
        raise HTTPException(400, f"The {name} is “{text[:20]}”; allowed is a number from {low:g} to {high:g}, in %.")
    return value


def _to_query(window: Window) -> str:
    return f"?center={window.center * 100:g}&width={window.width * 100:g}" + ("&invert=1" if window.invert else "")


def _explain_verdict(measured: dict[str, Any] | None) -> str:
    if measured is None or measured["gate_verdict"] is None:
        return _GATE_OFF if measured else ""
    if measured["gate_verdict"] == "passed":
        return "passed: it looks like the frontal chest X-rays of the training"
    return f"{measured['gate_verdict']}: {_explain_reason(measured['gate_verdict'])}"


def _explain_reason(code: str | None) -> str:
    meaning, remedy = explain_reason(code)
    return f"{meaning}; what to do: {remedy}" if meaning else ""
