"""From a folder of files to network inputs; modules in the order in which a scan passes through them.

entry: what a walk finds, and what it only counts.
walk: lists the files of a folder.
object_address: addresses in object storage, s3://BUCKET/KEY, and what is refused of them.
object_list: lists the scans below addresses, in a process of its own.
object_store: reads one object below the allowed roots, whole or in parts.
path_map: folders that have other names on other hosts.
files: opens and reads one file below the allowed roots.
archives: lists and reads the scans in zip and tar archives.
zip_names: decodes the names of the members of a zip archive.
archive_source: reads an archive from any place, within a budget.
archive_entries: what a walk finds in an archive.
formats: recognises a file's format by its first bytes.
scan: types of a decoded scan, and size limits.
decode: turns the bytes of one file into a Scan.
raster: decodes JPEG, PNG, TIFF, BMP and lossless WebP.
tiff: decodes TIFF pages that Pillow cannot decode.
lzw: checks LZW data of TIFF before it is decoded.
frame_header: headers of compressed frames.
frames: decoders of compressed frames, and whether a JPEG is whole.
dicom: decodes DICOM.
acquisition: identifiers, view, device and time of a DICOM instance.
dicom_file: parses the attributes and the frame of a DICOM file.
dicom_acquisition: reads the acquisition, and refuses lateral views.
dicom_frame: decodes the frame to stored values.
dicom_gray: modality and VOI transforms of stored values.
brightness: estimates black and white if the file does not define them.
array: turns a NumPy array into a Scan.
preprocessing: turns a Scan into the network's input tensor.
thumbnail: a small picture of a scan for people.
pixel_statistics: measures brightness, contrast, detail and symmetry of a tensor.
drawn_chest: draws synthetic chest X-rays for the demo, benchmarks and tests.
picture: draws a scan for people, in a window of gray levels.
"""
