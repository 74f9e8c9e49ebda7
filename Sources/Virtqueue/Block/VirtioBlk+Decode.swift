// Decodes and checks the block request in a descriptor chain, so that a request which comes out is correct: inside the
// disk, whole sectors, memory that exists. A request that is not is answered here, with the status that QEMU's own
// handler gives (block/export/virtio-blk-handler.c), so that a guest sees no difference.
public import DiskTypes
import Glibc

extension VirtioBlk {
    /// What `decode` makes of a chain.
    @frozen public enum Decoded: BitwiseCopyable {
        /// A correct request for the engine; `finish` answers it when it is done.
        case request(BlockRequest)
        /// A request that was answered here: push the chain with this number of bytes written.
        case answered(UInt32)
    }

    /// Sectors of the longest read or write (QEMU's BDRV_REQUEST_MAX_SECTORS), whose bytes fit in an Int32.
    static let maxSectors = UInt64(Int32.max) >> sectorBits

    /// Reads the request out of a chain (virtio 1.3, section 5.2.6). The header is copied once and removed from the
    /// chain's iovecs, as is the status byte; what stays there is the data.
    @inline(__always)
    public static func decode(_ chain: UnsafeMutablePointer<DescriptorChain>, _ disk: VirtioBlkDisk) -> Decoded {
        guard unsafe chain.pointee.fault == .none, unsafe chain.pointee.lastWritable != nil,
            unsafe chain.pointee.readableBytes >= UInt64(Header.bytes)
        else { return unsafe .answered(refuse(chain)) }
        var type: UInt64 = 0
        var sector: UInt64 = 0
        unsafe takeHeader(chain, &type, &sector)
        unsafe dropStatus(chain)
        let kind = UInt32(truncatingIfNeeded: type) & ~RequestType.barrier
        if kind <= RequestType.write {
            let isWrite = kind == RequestType.write
            let length =
                unsafe isWrite ? chain.pointee.readableBytes &- UInt64(Header.bytes) : chain.pointee.writableBytes &- 1
            guard !(isWrite && disk.isReadOnly), isInside(disk, sector, length) else {
                return unsafe .answered(finish(chain, .ioError))
            }
            guard length > 0 else { return unsafe .answered(finish(chain, .ok)) }
            let count = unsafe isWrite ? chain.pointee.readableCount : chain.pointee.writableCount
            guard Int(count) <= ChainLimits.segments else { return unsafe .answered(finish(chain, .ioError)) }
            return unsafe .request(
                BlockRequest(
                    isWrite ? .write : .read, slot: chain.pointee.slot, guest: GuestOffset(sector << sectorBits),
                    length: length,
                    iovecs: UnsafePointer(isWrite ? chain.pointee.readable : chain.pointee.writable),
                    iovecCount: count))
        }
        return unsafe decodeOther(chain, disk, UInt32(truncatingIfNeeded: type))
    }

    /// Writes the status byte and returns the bytes to push the chain with: QEMU counts everything writable, written or
    /// not. 0 when the chain has no writable byte.
    @inline(__always)
    public static func finish(_ chain: UnsafeMutablePointer<DescriptorChain>, _ status: RequestStatus) -> UInt32 {
        guard let place = unsafe chain.pointee.lastWritable else { return 0 }
        unsafe place.pointee = status.rawValue
        return unsafe UInt32(truncatingIfNeeded: min(chain.pointee.writableBytes, UInt64(UInt32.max)))
    }

    /// Answers a chain that is no request: I/O error where a status byte can be reached, else only the chain goes back.
    @inline(never) private static func refuse(_ chain: UnsafeMutablePointer<DescriptorChain>) -> UInt32 {
        guard let place = unsafe chain.pointee.lastWritable else { return 0 }
        unsafe place.pointee = RequestStatus.ioError.rawValue
        // The buffers in front of the status hold nothing, and the driver is told so.
        return unsafe chain.pointee.writableBytes == 1 ? 1 : 0
    }

    /// Whether the range is whole sectors, begins on a block, is no longer than `maxSectors` and inside the disk.
    private static func isInside(_ disk: VirtioBlkDisk, _ sector: UInt64, _ length: UInt64) -> Bool {
        let sectors = length >> sectorBits
        return length & (sectorBytes &- 1) == 0 && sectors <= maxSectors
            && (sector << sectorBits) & UInt64(disk.blockSize &- 1) == 0
            && sector <= disk.capacity && sectors <= disk.capacity &- sector
    }

    // MARK: the chain's two ends

    /// Copies the header once and removes it from the front, however it is cut into descriptors.
    @inline(__always) private static func takeHeader(
        _ chain: UnsafeMutablePointer<DescriptorChain>, _ type: inout UInt64, _ sector: inout UInt64
    ) {
        let first = unsafe chain.pointee.iovecs
        if unsafe first.pointee.iov_len == Header.bytes, let base = unsafe first.pointee.iov_base,
            UInt(bitPattern: base) & 7 == 0
        {
            type = unsafe load64(base)
            sector = unsafe load64(base + Header.sector)
            unsafe chain.pointee.iovecs = unsafe first + 1
            unsafe chain.pointee.readableCount &-= 1
        } else {
            (type, sector) = unsafe takeSplitHeader(chain)
        }
    }

    @inline(never) private static func takeSplitHeader(
        _ chain: UnsafeMutablePointer<DescriptorChain>
    ) -> (UInt64, UInt64) {
        var words: (UInt64, UInt64) = (0, 0)
        unsafe withUnsafeMutableBytes(of: &words) { target in
            _ = unsafe takeFront(chain, target.baseAddress, Header.bytes)
        }
        return (UInt64(littleEndian: words.0), UInt64(littleEndian: words.1))
    }

    /// Moves up to `count` bytes from the front of the readable buffers to `target`; returns how many there were.
    private static func takeFront(
        _ chain: UnsafeMutablePointer<DescriptorChain>, _ target: UnsafeMutableRawPointer?, _ count: Int
    ) -> Int {
        var done = 0
        while done < count, unsafe chain.pointee.readableCount > 0, let target = unsafe target {
            let buffer = unsafe chain.pointee.iovecs
            guard let base = unsafe buffer.pointee.iov_base else { break }
            let part = unsafe min(buffer.pointee.iov_len, count - done)
            unsafe (target + done).copyMemory(from: base, byteCount: part)
            done += part
            if unsafe part == buffer.pointee.iov_len {
                unsafe chain.pointee.iovecs += 1
                unsafe chain.pointee.readableCount -= 1
            } else {
                unsafe buffer.pointee.iov_base = unsafe base + part
                unsafe buffer.pointee.iov_len -= part
            }
        }
        return done
    }

    /// Removes the status byte from the end of the writable buffers.
    @inline(__always) private static func dropStatus(_ chain: UnsafeMutablePointer<DescriptorChain>) {
        let last = unsafe chain.pointee.writable + Int(chain.pointee.writableCount &- 1)
        unsafe last.pointee.iov_len &-= 1
        if unsafe last.pointee.iov_len == 0 { unsafe chain.pointee.writableCount &-= 1 }
    }

    // MARK: the other types

    @inline(never) private static func decodeOther(
        _ chain: UnsafeMutablePointer<DescriptorChain>, _ disk: VirtioBlkDisk, _ type: UInt32
    ) -> Decoded {
        switch type & ~RequestType.barrier {
        case RequestType.flush:
            return unsafe .request(BlockRequest(.flush, slot: chain.pointee.slot))
        case RequestType.getID:
            unsafe giveID(chain, disk)
            return unsafe .answered(finish(chain, .ok))
        case RequestType.discard, RequestType.writeZeroes:
            guard !disk.isReadOnly else { return unsafe .answered(finish(chain, .ioError)) }
            return unsafe decodeRange(chain, disk, type)
        default:
            return unsafe .answered(finish(chain, .unsupported))
        }
    }

    /// GET_ID: copies the serial number and its terminator, as far as there is room.
    private static func giveID(_ chain: UnsafeMutablePointer<DescriptorChain>, _ disk: VirtioBlkDisk) {
        unsafe withUnsafeBytes(of: disk.serial) { serial in
            var done = 0
            for i in unsafe 0..<Int(chain.pointee.writableCount) {
                let buffer = unsafe chain.pointee.writable[i]
                let part = unsafe min(buffer.iov_len, disk.serialBytes - done)
                guard part > 0, let source = serial.baseAddress else { return }
                unsafe buffer.iov_base?.copyMemory(from: source + done, byteCount: part)
                done += part
            }
        }
    }

    /// DISCARD and WRITE_ZEROES: one segment, checked in the order in which QEMU does.
    private static func decodeRange(
        _ chain: UnsafeMutablePointer<DescriptorChain>, _ disk: VirtioBlkDisk, _ type: UInt32
    ) -> Decoded {
        let payload = unsafe chain.pointee.readableBytes - UInt64(Header.bytes)
        guard payload <= UInt64(Segment.bytes) else { return unsafe .answered(finish(chain, .unsupported)) }
        var words: (UInt64, UInt64) = (0, 0)
        let taken = unsafe withUnsafeMutableBytes(of: &words) { unsafe takeFront(chain, $0.baseAddress, Segment.bytes) }
        guard taken == Segment.bytes else { return unsafe .answered(finish(chain, .ioError)) }
        let sector = UInt64(littleEndian: words.0)
        let second = UInt64(littleEndian: words.1)
        let sectors = UInt32(truncatingIfNeeded: second)
        let flags = UInt32(truncatingIfNeeded: second >> 32)
        let isZeroes = type == RequestType.writeZeroes
        let length = UInt64(sectors) << sectorBits
        guard sectors <= (isZeroes ? disk.maxWriteZeroesSectors : disk.maxDiscardSectors),
            isInside(disk, sector, length)
        else { return unsafe .answered(finish(chain, .ioError)) }
        guard flags & ~Segment.unmap == 0 else { return unsafe .answered(finish(chain, .unsupported)) }
        // With the barrier flag the type is neither of the two any more; QEMU fails it here.
        guard type & RequestType.barrier == 0 else { return unsafe .answered(finish(chain, .ioError)) }
        guard isZeroes || flags == 0 else { return unsafe .answered(finish(chain, .unsupported)) }
        guard sectors > 0 else { return unsafe .answered(finish(chain, .ok)) }
        return unsafe .request(
            BlockRequest(
                isZeroes ? .writeZeroes : .discard, slot: chain.pointee.slot,
                guest: GuestOffset(sector << sectorBits), length: length, mayUnmap: isZeroes && flags != 0))
    }
}
