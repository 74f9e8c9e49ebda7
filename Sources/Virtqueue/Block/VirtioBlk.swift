// The names and numbers of virtio-blk (virtio 1.3, section 5.2), one to one with formats/virtio-blk/layout.tsv, which
// the tests hold them against.

/// virtio-blk: the wire's constants, and the codec in its extensions.
public enum VirtioBlk {
    public static let sectorBits: UInt64 = 9
    public static let sectorBytes: UInt64 = 512
    public static let idBytes = 20

    /// Request header, then data, then the status byte.
    public enum Header {
        public static let type = 0
        public static let priority = 4
        public static let sector = 8
        public static let bytes = 16
    }

    public enum RequestType {
        public static let read: UInt32 = 0
        public static let write: UInt32 = 1
        public static let flush: UInt32 = 4
        public static let getID: UInt32 = 8
        public static let discard: UInt32 = 11
        public static let writeZeroes: UInt32 = 13
        /// A legacy flag on top of any type; ignored, as QEMU does.
        public static let barrier: UInt32 = 0x8000_0000
    }

    /// A range of DISCARD and WRITE_ZEROES.
    public enum Segment {
        public static let sector = 0
        public static let sectorCount = 8
        public static let flags = 12
        public static let bytes = 16
        public static let unmap: UInt32 = 1
    }

    /// Offsets in the configuration space.
    public enum Config {
        public static let capacity = 0
        public static let sizeMax = 8
        public static let segMax = 12
        public static let geometry = 16
        public static let blockSize = 20
        public static let physicalBlockExponent = 24
        public static let alignmentOffset = 25
        public static let minIOSize = 26
        public static let optIOSize = 28
        public static let writeback = 32
        public static let queueCount = 34
        public static let maxDiscardSectors = 36
        public static let maxDiscardSegments = 40
        public static let discardAlignment = 44
        public static let maxWriteZeroesSectors = 48
        public static let maxWriteZeroesSegments = 52
        public static let writeZeroesMayUnmap = 56
        /// Bytes up to and with the write-zeroes fields.
        public static let bytes = 60
    }

    /// Bits of the feature word.
    public enum Feature {
        public static let segMax: UInt64 = 1 << 2
        public static let readOnly: UInt64 = 1 << 5
        public static let blockSize: UInt64 = 1 << 6
        public static let flush: UInt64 = 1 << 9
        public static let topology: UInt64 = 1 << 10
        public static let configWriteback: UInt64 = 1 << 11
        public static let multiQueue: UInt64 = 1 << 12
        public static let discard: UInt64 = 1 << 13
        public static let writeZeroes: UInt64 = 1 << 14
        // Of every virtio device.
        public static let notifyOnEmpty: UInt64 = 1 << 24
        public static let logAll: UInt64 = 1 << 26
        public static let anyLayout: UInt64 = 1 << 27
        public static let indirect: UInt64 = 1 << 28
        public static let eventIndex: UInt64 = 1 << 29
        public static let protocolFeatures: UInt64 = 1 << 30
        public static let version1: UInt64 = 1 << 32
        public static let ringPacked: UInt64 = 1 << 34
    }
}

extension RingFeatures {
    /// What a negotiated feature word means for the rings.
    public init(negotiated word: UInt64) {
        var features: RingFeatures = []
        if word & VirtioBlk.Feature.ringPacked != 0 { features.insert(.packed) }
        if word & VirtioBlk.Feature.indirect != 0 { features.insert(.indirect) }
        if word & VirtioBlk.Feature.eventIndex != 0 { features.insert(.eventIndex) }
        if word & VirtioBlk.Feature.notifyOnEmpty != 0 { features.insert(.notifyOnEmpty) }
        self = features
    }
}
