// Why this file exists: most users of a chain want one answer for all of it; `extents` and `compare -s` say what each
// layer has on its own.

public import DiskTypes

extension ImageChain {
    /// Where `length` (> 0) bytes at `guest` are in layer `depth` alone: `unallocated` means that the next layer says.
    /// The range must lie inside that layer's size. Otherwise as `lookup`.
    public func lookup(_ guest: GuestOffset, length: UInt64, inLayer depth: Int) -> MapAnswer {
        let layer = layers[depth]
        return Self.placed(layer.map.lookup(guest, length: length), layer, depth)
    }
}
