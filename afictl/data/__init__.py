"""COCO-format data: the index, transforms, batches, the check of a data set, and a generated one."""
