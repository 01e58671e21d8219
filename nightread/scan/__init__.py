"""From a folder of files to network inputs, in the order in which a scan passes.

walk: lists the files of a folder.
files: opens and reads one file below the allowed roots.
formats: tells a file's format from its first bytes.
scan: the types of a scan as read, and its size limits.
decode: turns the bytes of one file into a Scan.
raster: decodes JPEG, PNG and TIFF.
dicom: decodes DICOM.
preprocessing: turns a Scan into the network's input tensor.
pixel_statistics: measures brightness, contrast, detail and symmetry of a tensor.
drawn_chest: draws chest X-rays for the demo, for benchmarks and for tests.
"""
