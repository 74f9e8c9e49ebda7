// What a front-end asks a back-end for: features, memory, sizes and a time-out. Features that the back-end does not
// offer are left out, except packed rings.
public import VhostUserWire
import Virtqueue

/// How to connect and what to agree on.
public struct FrontendOptions: Sendable {
    /// Entries of each queue.
    public var queueSize = 128
    /// Packed rings; connecting to a back-end without them is an error.
    public var packed = false
    /// Indirect descriptors, if offered.
    public var indirect = true
    /// Event suppression by index, if offered.
    public var eventIndex = true
    /// Bits of the feature word to accept besides those of the rings, as far as they are offered.
    public var wanted: UInt64 =
        VirtioBlk.Feature.flush | VirtioBlk.Feature.blockSize | VirtioBlk.Feature.topology
        | VirtioBlk.Feature.segMax | VirtioBlk.Feature.readOnly | VirtioBlk.Feature.multiQueue
        | VirtioBlk.Feature.discard | VirtioBlk.Feature.writeZeroes | VirtioBlk.Feature.configWriteback
    /// Protocol features to accept, as far as they are offered.
    public var protocolFeatures: ProtocolFeatures = [.multiQueue, .replyAck, .config]
    /// The guest's memory: address and bytes of each region.
    public var memory: [(guest: UInt64, bytes: Int)] = [(0x1_0000_0000, 64 << 20)]
    /// Regions are sent one by one, if CONFIGURE_MEM_SLOTS was agreed on.
    public var oneRegionAtATime = false
    /// Milliseconds that an answer may take.
    public var milliseconds: Int32 = 10_000

    /// Split rings of 128 entries, all features of virtio-blk, 64 MiB of memory.
    public init() {}

    /// The feature word to look for in what the back-end offers.
    var features: UInt64 {
        var word = wanted | VirtioBlk.Feature.version1 | VirtioBlk.Feature.protocolFeatures
        if packed { word |= VirtioBlk.Feature.ringPacked }
        if indirect { word |= VirtioBlk.Feature.indirect }
        if eventIndex { word |= VirtioBlk.Feature.eventIndex }
        return word
    }
}
