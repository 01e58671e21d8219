"""Data sets: from files and tables to the arrays of a training.

sources: places that a data set can be fetched from.
download: downloads and unpacks an archive.
catalog: the data sets by name.
dataset: the types of a data set.
pediatric: the pediatric chest X-rays of Kermany et al.
covid: the COVID-19 chest X-rays of Cohen et al.
own: own labelled scans, with labels of any name.
labels: reads own labels from a CSV file or from folders.
tables: reads a CSV file of labels.
load: reads and prepares all scans of a data set.
split: splits scans by patient.
site: labelled scans of another site.
"""
