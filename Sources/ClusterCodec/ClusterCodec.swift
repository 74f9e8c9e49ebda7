// The target ClusterCodec.
