// The target QCOW2.
