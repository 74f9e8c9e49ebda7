// What a virtio-blk device tells its driver about the disk (features, configuration space), and the few numbers of it
// that every request is checked against. The values are those of QEMU's export, so that a guest can move between the
// two.

/// A disk as virtio-blk shows it. Plain bytes: a worker has its own copy, and gets a new one when the disk grows.
public struct VirtioBlkDisk: BitwiseCopyable, Sendable {
    /// The disk's length, in sectors of 512 bytes.
    public var capacity: UInt64
    /// Bytes of a logical block: a power of two, at least 512. Requests begin at a multiple of it.
    public let blockSize: UInt32
    /// Every change of the disk is answered with an I/O error.
    public var isReadOnly: Bool
    /// Virtqueues that the device offers (num_queues).
    public var queueCount: UInt16
    /// Whether a write may be answered before it is durable: the driver flushes. Write-through when false.
    public var isWriteback: Bool = false
    /// Data segments that a driver is told to send at most (seg_max). QEMU's number; `ChainLimits.segments` are taken.
    public var segMax: UInt32 = 126
    /// Logical blocks in a physical one: 2 to this power.
    public var physicalBlockExponent: UInt8 = 0
    /// The best length of a request, in logical blocks (opt_io_size).
    public var optimalIOBlocks: UInt32 = 1
    /// Sectors of the longest DISCARD: 16 MiB.
    public var maxDiscardSectors: UInt32 = 32768
    /// Sectors of the longest WRITE_ZEROES: 16 MiB.
    public var maxWriteZeroesSectors: UInt32 = 32768
    /// The serial number, followed by zeros when it is shorter than 20 bytes.
    let serial: (UInt64, UInt64, UInt32)
    /// Bytes that GET_ID answers: the serial number, and a zero when there is room for one.
    let serialBytes: Int

    /// Nil unless the block size is a power of two, at least 512. A last part of less than a sector is not offered; of
    /// `serial`, the first 20 bytes are.
    public init?(
        capacityBytes: UInt64, blockSize: UInt32 = 512, isReadOnly: Bool = false, queueCount: UInt16 = 1,
        serial: String = "qblk"
    ) {
        guard blockSize >= 512, blockSize & (blockSize - 1) == 0 else { return nil }
        capacity = capacityBytes >> VirtioBlk.sectorBits
        self.blockSize = blockSize
        self.isReadOnly = isReadOnly
        self.queueCount = queueCount
        var bytes = Array(serial.utf8.prefix(VirtioBlk.idBytes))
        // With its terminator, when there is room for one.
        serialBytes = min(bytes.count + 1, VirtioBlk.idBytes)
        bytes += Array(repeating: 0, count: VirtioBlk.idBytes - bytes.count)
        func word(_ from: Int, _ count: Int) -> UInt64 {
            bytes[from..<from + count].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        self.serial = (word(0, 8).littleEndian, word(8, 8).littleEndian, UInt32(word(16, 4)).littleEndian)
    }

    /// The feature bits to offer, those of the rings included; the transport adds its own.
    public var features: UInt64 {
        typealias Bit = VirtioBlk.Feature
        var word = Bit.segMax | Bit.blockSize | Bit.flush | Bit.topology | Bit.configWriteback | Bit.multiQueue
        word |= Bit.discard | Bit.writeZeroes
        word |= Bit.notifyOnEmpty | Bit.anyLayout | Bit.indirect | Bit.eventIndex | Bit.version1 | Bit.ringPacked
        if isReadOnly { word |= Bit.readOnly }
        return word
    }

    /// The configuration space (virtio 1.3, section 5.2.4), `count` bytes of it. Bytes behind the last known field are
    /// zeros.
    public func configuration(count: Int = VirtioBlk.Config.bytes) -> [UInt8] {
        typealias At = VirtioBlk.Config
        var bytes = [UInt8](repeating: 0, count: max(count, At.bytes))
        func put<T: FixedWidthInteger>(_ value: T, _ offset: Int) {
            for i in 0..<T.bitWidth / 8 { bytes[offset + i] = UInt8(truncatingIfNeeded: value >> (8 * i)) }
        }
        put(capacity, At.capacity)
        put(segMax, At.segMax)
        put(blockSize, At.blockSize)
        put(physicalBlockExponent, At.physicalBlockExponent)
        put(UInt16(1), At.minIOSize)
        put(optimalIOBlocks, At.optIOSize)
        put(UInt8(isWriteback ? 1 : 0), At.writeback)
        put(queueCount, At.queueCount)
        put(maxDiscardSectors, At.maxDiscardSectors)
        put(UInt32(1), At.maxDiscardSegments)
        put(blockSize >> UInt32(VirtioBlk.sectorBits), At.discardAlignment)
        put(maxWriteZeroesSectors, At.maxWriteZeroesSectors)
        put(UInt32(1), At.maxWriteZeroesSegments)
        put(UInt8(1), At.writeZeroesMayUnmap)
        return Array(bytes.prefix(max(count, 0)))
    }

    /// Takes what the driver wrote at byte `offset` of the configuration space. It may change the cache mode only:
    /// false, and no change, for anything else.
    public mutating func write(configuration bytes: [UInt8], at offset: Int) -> Bool {
        guard offset == VirtioBlk.Config.writeback, bytes.count == 1, bytes[0] <= 1 else { return false }
        isWriteback = bytes[0] == 1
        return true
    }
}
