// The names and numbers of virtio-blk (virtio 1.3, section 5.2). formats/virtio-blk/layout.tsv has the same list; the
// tests hold one against the other.

/// virtio-blk: the wire's constants, and the codec in its extensions.
public enum VirtioBlk {
    /// Bytes of a sector: 2 to this power.
    public static let sectorBits: UInt64 = 9
    /// Bytes of a sector, whatever the disk's block size is: all positions of the protocol are in sectors.
    public static let sectorBytes: UInt64 = 512
    /// Bytes of the serial number that GET_ID answers.
    public static let idBytes = 20

    /// Offsets in a request's header, in bytes (section 5.2.6); behind it are the data and the status byte.
    public enum Header {
        /// What is asked, a u32: a number of `RequestType`.
        public static let type = 0
        /// Priority (ioprio), a u32; ignored.
        public static let priority = 4
        /// The first sector, a u64.
        public static let sector = 8
        /// Bytes of the header.
        public static let bytes = 16
    }

    /// Types of requests (section 5.2.6).
    public enum RequestType {
        /// VIRTIO_BLK_T_IN: data goes to the driver.
        public static let read: UInt32 = 0
        /// VIRTIO_BLK_T_OUT: data comes from the driver.
        public static let write: UInt32 = 1
        /// VIRTIO_BLK_T_FLUSH: all writes answered before become durable.
        public static let flush: UInt32 = 4
        /// VIRTIO_BLK_T_GET_ID: the serial number, at most 20 bytes.
        public static let getID: UInt32 = 8
        /// VIRTIO_BLK_T_DISCARD: a range whose bytes the driver no longer needs.
        public static let discard: UInt32 = 11
        /// VIRTIO_BLK_T_WRITE_ZEROES: a range that reads as zeros afterwards.
        public static let writeZeroes: UInt32 = 13
        /// VIRTIO_BLK_T_BARRIER: a legacy flag beside any type; ignored, as QEMU does.
        public static let barrier: UInt32 = 0x8000_0000
    }

    /// Offsets in the range that DISCARD and WRITE_ZEROES send as data, in bytes (section 5.2.6).
    public enum Segment {
        /// The first sector, a u64.
        public static let sector = 0
        /// Number of sectors, a u32.
        public static let sectorCount = 8
        /// Flags, a u32.
        public static let flags = 12
        /// Bytes of the structure.
        public static let bytes = 16
        /// Bit 0 of the flags, in WRITE_ZEROES only: the range's storage may be given up.
        public static let unmap: UInt32 = 1
    }

    /// Offsets in the configuration space, in bytes (section 5.2.4).
    public enum Config {
        /// Sectors of the disk, a u64.
        public static let capacity = 0
        /// Bytes of the longest segment (size_max), a u32; not offered.
        public static let sizeMax = 8
        /// Data segments of a request (seg_max), a u32.
        public static let segMax = 12
        /// Cylinders, heads and sectors, 4 bytes; not offered.
        public static let geometry = 16
        /// Bytes of a logical block (blk_size), a u32.
        public static let blockSize = 20
        /// Logical blocks in a physical one (physical_block_exp): 2 to this power, a u8.
        public static let physicalBlockExponent = 24
        /// Logical blocks before the first aligned one, a u8.
        public static let alignmentOffset = 25
        /// The shortest good request, in logical blocks, a u16.
        public static let minIOSize = 26
        /// The best length of a request, in logical blocks, a u32.
        public static let optIOSize = 28
        /// Cache mode, a u8: 1 is write-back, 0 write-through. The driver may write it.
        public static let writeback = 32
        /// Number of virtqueues (num_queues), a u16.
        public static let queueCount = 34
        /// Sectors of the longest DISCARD, a u32.
        public static let maxDiscardSectors = 36
        /// Ranges of a DISCARD, a u32.
        public static let maxDiscardSegments = 40
        /// Alignment of a DISCARD, in sectors, a u32.
        public static let discardAlignment = 44
        /// Sectors of the longest WRITE_ZEROES, a u32.
        public static let maxWriteZeroesSectors = 48
        /// Ranges of a WRITE_ZEROES, a u32.
        public static let maxWriteZeroesSegments = 52
        /// Whether WRITE_ZEROES may give up storage, a u8.
        public static let writeZeroesMayUnmap = 56
        /// Bytes of the space, up to and with the fields of WRITE_ZEROES.
        public static let bytes = 60
    }

    /// Bits of the feature word, as masks (sections 5.2.3 and 6).
    public enum Feature {
        /// VIRTIO_BLK_F_SEG_MAX: seg_max is valid.
        public static let segMax: UInt64 = 1 << 2
        /// VIRTIO_BLK_F_RO: the disk is read-only.
        public static let readOnly: UInt64 = 1 << 5
        /// VIRTIO_BLK_F_BLK_SIZE: blk_size is valid.
        public static let blockSize: UInt64 = 1 << 6
        /// VIRTIO_BLK_F_FLUSH: the device takes FLUSH.
        public static let flush: UInt64 = 1 << 9
        /// VIRTIO_BLK_F_TOPOLOGY: the sizes and alignments of blocks are valid.
        public static let topology: UInt64 = 1 << 10
        /// VIRTIO_BLK_F_CONFIG_WCE: the driver may read and set the cache mode.
        public static let configWriteback: UInt64 = 1 << 11
        /// VIRTIO_BLK_F_MQ: num_queues is valid.
        public static let multiQueue: UInt64 = 1 << 12
        /// VIRTIO_BLK_F_DISCARD: the device takes DISCARD.
        public static let discard: UInt64 = 1 << 13
        /// VIRTIO_BLK_F_WRITE_ZEROES: the device takes WRITE_ZEROES.
        public static let writeZeroes: UInt64 = 1 << 14
        // The bits from here on are the same for every virtio device.
        /// VIRTIO_F_NOTIFY_ON_EMPTY (legacy): a signal when no request is left, whatever the driver asked for.
        public static let notifyOnEmpty: UInt64 = 1 << 24
        /// VHOST_F_LOG_ALL: the back-end logs the pages that it writes.
        public static let logAll: UInt64 = 1 << 26
        /// VIRTIO_F_ANY_LAYOUT (legacy): a request may be cut into descriptors anywhere.
        public static let anyLayout: UInt64 = 1 << 27
        /// VIRTIO_F_INDIRECT_DESC: descriptors may be in tables outside the ring.
        public static let indirect: UInt64 = 1 << 28
        /// VIRTIO_F_EVENT_IDX: each side names the position at which it wants to be notified.
        public static let eventIndex: UInt64 = 1 << 29
        /// VHOST_USER_F_PROTOCOL_FEATURES: vhost-user's own features follow.
        public static let protocolFeatures: UInt64 = 1 << 30
        /// VIRTIO_F_VERSION_1: the device keeps to virtio 1.0 or later.
        public static let version1: UInt64 = 1 << 32
        /// VIRTIO_F_RING_PACKED: rings are packed, not split.
        public static let ringPacked: UInt64 = 1 << 34
    }
}

extension RingFeatures {
    /// The features of a negotiated feature word that change how rings are read and written.
    public init(negotiated word: UInt64) {
        var features: RingFeatures = []
        if word & VirtioBlk.Feature.ringPacked != 0 { features.insert(.packed) }
        if word & VirtioBlk.Feature.indirect != 0 { features.insert(.indirect) }
        if word & VirtioBlk.Feature.eventIndex != 0 { features.insert(.eventIndex) }
        if word & VirtioBlk.Feature.notifyOnEmpty != 0 { features.insert(.notifyOnEmpty) }
        self = features
    }
}
