"""From a folder of files to network inputs; modules in the order in which a scan passes through them.

walk: lists the files of a folder.
files: opens and reads one file below the allowed roots.
formats: recognises a file's format by its first bytes.
scan: types of a decoded scan, and size limits.
decode: turns the bytes of one file into a Scan.
raster: decodes JPEG, PNG and TIFF.
dicom: decodes DICOM.
array: takes pixels that are in memory already.
preprocessing: turns a Scan into the network's input tensor.
pixel_statistics: measures brightness, contrast, detail and symmetry of a tensor.
drawn_chest: draws synthetic chest X-rays for the demo, benchmarks and tests.
"""
