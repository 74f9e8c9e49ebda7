// What a virtio-blk device tells its driver about the disk (features, configuration space), and the few numbers of it
// that every request is checked against. The values are those of QEMU's export, so that a guest can move between the
// two.

/// A disk as virtio-blk shows it. Plain bytes: a worker keeps its own copy, and gets a new one when the disk grows.
public struct VirtioBlkDisk: BitwiseCopyable, Sendable {
    /// Sectors of 512 bytes.
    public var capacity: UInt64
    /// Bytes; a power of two, at least 512.
    public let blockSize: UInt32
    public var isReadOnly: Bool
    public var queueCount: UInt16
    /// Whether a write may be answered before it is durable: the driver flushes. Write-through when false.
    public var isWriteback: Bool = false
    public var segMax: UInt32 = 126
    public var physicalBlockExponent: UInt8 = 0
    public var optimalIOBlocks: UInt32 = 1
    /// The longest DISCARD and WRITE_ZEROES: 16 MiB.
    public var maxDiscardSectors: UInt32 = 32768
    public var maxWriteZeroesSectors: UInt32 = 32768
    /// The serial number, zero terminated when shorter than 20 bytes.
    let serial: (UInt64, UInt64, UInt32)
    let serialBytes: Int

    /// Nil when the block size is none.
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

    /// The configuration space. Fields after the last one known read as zeros, to any length.
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

    /// Takes in what the driver wrote to the configuration space: the cache mode is all it may change. False for
    /// anything else.
    public mutating func write(configuration bytes: [UInt8], at offset: Int) -> Bool {
        guard offset == VirtioBlk.Config.writeback, bytes.count == 1, bytes[0] <= 1 else { return false }
        isWriteback = bytes[0] == 1
        return true
    }
}
