"""Data sets: from files and tables to the arrays of a training.

catalog: the data sets by name.
sources: where a data set can be fetched from.
download: fetches and unpacks it.
dataset: the types of a data set.
tables: reads a CSV file of labels.
pediatric: the pediatric chest X-rays of Kermany et al.
covid: the COVID-19 chest X-rays of Cohen et al.
split: splits scans by patient.
load: reads and prepares all scans of a data set.
"""
