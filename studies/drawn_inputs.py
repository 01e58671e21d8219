"""Drawn pictures that are not radiographs: documents, screenshots, charts, noise, gradients, shapes."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

#: Letters for random words of two to eleven letters, roughly as frequent as in English.
_LETTERS: Final = list("eeeeaaaatttooinnshrrdlucmfwygpbvk")


@dataclass(frozen=True, slots=True)
class Input:
    """One picture.

    Attributes:
        kind: row of the table.
        name: file name, unique within its kind.
        data: content of the file.
    """

    kind: str
    name: str
    data: bytes


def encode(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    """Encode a picture as a file."""
    buffer = BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def draw_inputs() -> Iterator[Input]:
    """Yield all drawn pictures; each call yields equal ones."""
    for kind, count, draw in (
        ("document", 24, _draw_document),
        ("document, photographed", 12, _draw_photographed_document),
        ("screenshot", 24, _draw_screenshot),
        ("chart", 24, _draw_chart),
        ("noise", 16, _draw_noise),
        ("gradient", 12, _draw_gradient),
        ("shapes", 16, _draw_shapes),
        ("one gray", 4, _draw_one_gray),
    ):
        for number in range(count):
            image = draw(np.random.default_rng(number), number)
            as_jpeg = number % 3 == 2 and image.mode in {"L", "RGB"}
            data = encode(image, "JPEG", quality=85) if as_jpeg else encode(image)
            yield Input(kind, f"{number:02}.{'jpeg' if as_jpeg else 'png'}", data)


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join("".join(rng.choice(_LETTERS, rng.integers(2, 12))) for _ in range(count))


def _draw_document(rng: np.random.Generator, number: int) -> Image.Image:
    """Draw a page: headings, paragraphs and sometimes a table; gray, color, or a dark page."""
    width, height = (850, 1100) if number % 2 else (1240, 1754)
    paper, ink = (255, 20) if number % 6 else (24, 230)
    image = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(image)
    y = margin = width // 12
    draw.text((margin, y), _words(rng, 4), fill=ink, font=ImageFont.load_default(width // 24))
    y += width // 12
    size = int(rng.integers(width // 70, width // 45))
    font = ImageFont.load_default(size)
    end = int(height * rng.uniform(0.4, 0.95))
    while y < end:
        if number % 4 == 3 and rng.random() < 0.1:
            y = _draw_table(draw, rng, (margin, y, width - margin), size, ink)
            continue
        line = _words(rng, 14)
        while draw.textlength(line, font) > width - 2 * margin:
            line = line.rsplit(" ", 1)[0]
        draw.text((margin, y), line if rng.random() < 0.9 else line[: len(line) // 2], fill=ink, font=font)
        y += int(size * 1.4)
    return image.convert("RGB") if number % 5 == 4 else image


def _draw_table(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, box: tuple[int, int, int], size: int, ink: int
) -> int:
    left, top, right = box
    rows, columns = 6, 4
    font = ImageFont.load_default(size)
    for row in range(rows + 1):
        draw.line([(left, top + row * size * 2), (right, top + row * size * 2)], fill=ink)
    for column in range(columns + 1):
        x = left + column * (right - left) // columns
        draw.line([(x, top), (x, top + rows * size * 2)], fill=ink)
        for row in range(rows if column < columns else 0):
            draw.text((x + size // 2, top + row * size * 2 + size // 3), f"{rng.integers(10_000)}", fill=ink, font=font)
    return top + (rows + 1) * size * 2


def _draw_photographed_document(rng: np.random.Generator, number: int) -> Image.Image:
    """Draw a page as photographed or scanned: uneven light, a slight rotation, noise, gray or yellowish paper."""
    page = _draw_document(rng, 2 * number + 1).convert("L").resize((700, 900), Image.Resampling.BILINEAR)
    page = page.rotate(rng.uniform(-4, 4), fillcolor=90, expand=True, resample=Image.Resampling.BICUBIC)
    gray = np.asarray(page.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    light = np.linspace(rng.uniform(0.6, 0.8), 1, gray.shape[1], dtype=np.float32)
    noisy = np.clip(gray * light * 0.92 + rng.normal(0, 4, gray.shape), 0, 255).astype(np.uint8)
    if number % 2:
        return Image.fromarray(noisy)
    tint = np.array([1.0, 0.97, 0.86], np.float32)
    return Image.fromarray((noisy[:, :, np.newaxis] * tint).astype(np.uint8))


def _draw_screenshot(rng: np.random.Generator, number: int) -> Image.Image:
    """Draw a window: a bar, a side list, text or panels, in light or dark colors; each third one in gray."""
    size = [(1280, 800), (1920, 1080), (1024, 768)][number % 3]
    is_dark = number % 2 == 1
    back, panel, ink = ("#1e1e1e", "#2d2d30", "#d4d4d4") if is_dark else ("#ffffff", "#f0f0f0", "#202020")
    accent = ["#0078d4", "#c42b1c", "#107c10", "#8661c5"][number % 4]
    image = Image.new("RGB", size, back)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    draw.rectangle((0, 0, size[0], 40), fill=accent)
    draw.text((16, 10), _words(rng, 3), fill="#ffffff", font=ImageFont.load_default(18))
    draw.rectangle((0, 40, size[0] // 5, size[1]), fill=panel)
    for place in range(20):
        draw.text((14, 56 + 26 * place), _words(rng, 2), fill=ink, font=font)
    left, top = size[0] // 5 + 20, 60
    if number % 4 < 2:
        for line in range(int(rng.integers(10, (size[1] - 80) // 20))):
            draw.text((left, top + 20 * line), _words(rng, int(rng.integers(3, 12))), fill=ink, font=font)
    else:
        for place in range(6):
            x, y = left + (place % 3) * size[0] // 4, top + (place // 3) * size[1] // 3
            draw.rounded_rectangle((x, y, x + size[0] // 5, y + size[1] // 4), 8, fill=panel, outline=accent)
            draw.text((x + 12, y + 12), _words(rng, 2), fill=ink, font=ImageFont.load_default(16))
            draw.line([(x + 10 + 12 * i, y + 150 - int(rng.integers(90))) for i in range(14)], fill=accent, width=2)
    return image.convert("L") if number % 3 == 0 else image


def _draw_chart(rng: np.random.Generator, number: int) -> Image.Image:
    """Draw a chart with matplotlib: lines, bars, points, a heat map, a histogram, a filled contour."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with plt.style.context("dark_background" if number % 7 == 6 else "default"):
        figure, axes = plt.subplots(figsize=(6.4, 4.8), dpi=100)
        x = np.arange(40)
        kind = number % 6
        if kind == 0:
            for _ in range(4):
                axes.plot(x, rng.normal(size=40).cumsum())
        elif kind == 1:
            axes.bar(x[:12], rng.random(12))
        elif kind == 2:
            axes.scatter(rng.normal(size=300), rng.normal(size=300), s=12)
        elif kind == 3:
            axes.imshow(rng.random((12, 16)), cmap="gray" if number % 12 == 3 else "viridis")
        elif kind == 4:
            axes.hist(rng.normal(size=1000), bins=40)
        else:
            axes.contourf(np.sin(x[:, np.newaxis] / rng.uniform(4, 9)) * np.cos(x / rng.uniform(4, 9)), cmap="gray")
        axes.set_title("a chart")
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
    image = Image.open(buffer).convert("RGB")
    return image.convert("L") if number % 2 else image


def _draw_noise(rng: np.random.Generator, number: int) -> Image.Image:
    """Draw noise from white to cloudy; the spectrum falls with a power of the frequency between 0 and 2.5."""
    side = 400
    if number < 4:
        levels = rng.integers(0, 256, (side, side)) if number % 2 else rng.normal(128, 20 + 10 * number, (side, side))
        return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.normal(size=(side, side))) / frequency ** (0.5 + 2.0 * (number - 4) / 11)
    return _to_image(np.fft.ifft2(spectrum).real)


def _draw_gradient(rng: np.random.Generator, number: int) -> Image.Image:
    y, x = np.mgrid[0:400, 0:480] / 400.0
    kind = number % 4
    if kind == 0:
        return _to_image(x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1))
    if kind == 1:
        return _to_image(np.hypot(x - rng.uniform(0.2, 1), y - rng.uniform(0.2, 0.8)))
    if kind == 2:
        return _to_image(-np.hypot((x - 0.6) * rng.uniform(0.5, 2), y - 0.5))
    return _to_image(np.floor(x * rng.integers(4, 14)))


def _draw_shapes(rng: np.random.Generator, number: int) -> Image.Image:
    """Draw discs, a checkerboard, stripes, a chest-like pair of ellipses, or a code of black and white cells."""
    image = Image.new("L", (420, 420), int(rng.integers(0, 60)))
    draw = ImageDraw.Draw(image)
    kind = number % 5
    if kind == 0:
        for _ in range(12):
            x, y, radius = [*rng.integers(0, 420, 2).tolist(), int(rng.integers(10, 80))]
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.integers(256)))
    elif kind == 1:
        side = int(rng.integers(15, 70))
        for x in range(0, 420, side):
            for y in range((x // side % 2) * side, 420, 2 * side):
                draw.rectangle((x, y, x + side, y + side), fill=220)
    elif kind == 2:
        step = int(rng.integers(8, 50))
        for x in range(0, 420, step):
            draw.rectangle((x, 0, x + step // 2, 420), fill=200)
    elif kind == 3:
        draw.rectangle((60, 30, 360, 420), fill=170)
        for center in (140, 280):
            draw.ellipse((center - 55, 90, center + 55, 360), fill=60)
        image = image.filter(ImageFilter.GaussianBlur(int(rng.integers(1, 12))))
    else:
        cells = rng.integers(0, 2, (29, 29)).astype(np.uint8) * 255
        image = Image.fromarray(cells).resize((435, 435), Image.Resampling.NEAREST)
    return image


def _draw_one_gray(_rng: np.random.Generator, number: int) -> Image.Image:
    return Image.new("L", (320, 320), [0, 60, 128, 255][number])


def _to_image(levels: npt.NDArray[Any]) -> Image.Image:
    """Scale levels to 8-bit gray from black to white."""
    low, high = float(levels.min()), float(levels.max())
    return Image.fromarray(((levels - low) / ((high - low) or 1.0) * 255).astype(np.uint8))
