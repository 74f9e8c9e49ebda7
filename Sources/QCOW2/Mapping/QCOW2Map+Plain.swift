// The short lookup for the commonest request: one that lies in one plain cluster whose table is in memory. There the
// full answer of `lookup` is mostly unpacking; this is the same lookup, with one number for an answer.

public import DiskTypes

extension QCOW2Map {
    /// Where the `length` bytes at `guest` are, when they lie in one plain data cluster and that can be told without
    /// I/O; nil means only: ask `lookup`. Takes no lock.
    public func plainOffset(_ guest: GuestOffset, length: UInt64) -> HostOffset? {
        let inCluster = guest.bytes & (clusterSize &- 1)
        if subclusterBits != clusterBits { return subclusterOffset(guest, length, asking: 0) }
        guard length <= clusterSize &- inCluster else { return nil }
        // Only tables of right L1 entries are ever supplied, so a slice that is here needs no look at L1. The shifts
        // are below 64: the masking kind saves the check.
        let slice = guest.bytes &>> sliceCoverageBits
        guard guest.bytes < size, let view = cache.view(Int(truncatingIfNeeded: slice)) else { return nil }
        let index = (guest.bytes &>> clusterBits) &- (slice &<< (sliceCoverageBits &- clusterBits))
        let word = MappingWord(view[Int(truncatingIfNeeded: index)])
        guard cache.holds(view), word.isPlainData else { return nil }
        return HostOffset(word.offset &+ inCluster)
    }

    /// The same where an entry has subclusters: all that are touched must be there. `asking`: flags that the entry must
    /// have.
    @inline(never) func subclusterOffset(_ guest: GuestOffset, _ length: UInt64, asking flags: UInt64) -> HostOffset? {
        let inCluster = guest.bytes & (clusterSize &- 1)
        guard length > 0, length <= clusterSize &- inCluster else { return nil }
        let slice = guest.bytes &>> sliceCoverageBits
        guard guest.bytes < size, let view = cache.view(Int(truncatingIfNeeded: slice)) else { return nil }
        let index = ((guest.bytes &>> clusterBits) &- (slice &<< (sliceCoverageBits &- clusterBits))) &* 2
        let word = MappingWord(view[Int(truncatingIfNeeded: index)])
        let bits = view[Int(truncatingIfNeeded: index &+ 1)]
        let first = inCluster &>> subclusterBits
        let last = (inCluster &+ length &- 1) &>> subclusterBits
        let touched = ((2 &<< (last &- first)) &- 1) &<< first
        guard cache.holds(view), bits & touched == touched, word.isPlainData, word.raw & flags == flags else {
            return nil
        }
        return HostOffset(word.offset &+ inCluster)
    }
}

extension MappingWord {
    /// Surely data: an offset, and neither compressed, nor zero, nor damaged.
    @inline(__always) var isPlainData: Bool { offset != 0 && raw & (Self.compressed | 0x1ff) == 0 }
}
