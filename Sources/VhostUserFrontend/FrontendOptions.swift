// What a front-end asks for, before it knows what the back-end has.
public import VhostUserWire
import Virtqueue

/// How to connect and what to agree on.
public struct FrontendOptions: Sendable {
    /// Entries of each queue.
    public var queueSize = 128
    /// Packed rings; a back-end without them is an error.
    public var packed = false
    public var indirect = true
    public var eventIndex = true
    /// Feature bits to accept besides those of the rings, as far as they are offered.
    public var wanted: UInt64 =
        VirtioBlk.Feature.flush | VirtioBlk.Feature.blockSize | VirtioBlk.Feature.topology
        | VirtioBlk.Feature.segMax | VirtioBlk.Feature.readOnly | VirtioBlk.Feature.multiQueue
        | VirtioBlk.Feature.discard | VirtioBlk.Feature.writeZeroes | VirtioBlk.Feature.configWriteback
    /// Protocol features to accept, as far as they are offered.
    public var protocolFeatures: ProtocolFeatures = [.multiQueue, .replyAck, .config]
    /// Guest memory.
    public var memory: [(guest: UInt64, bytes: Int)] = [(0x1_0000_0000, 64 << 20)]
    /// Regions go one by one, where CONFIGURE_MEM_SLOTS was agreed on.
    public var oneRegionAtATime = false
    /// How long an answer may take.
    public var milliseconds: Int32 = 10_000

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
