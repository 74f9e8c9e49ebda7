// Bytes to and from the kernel, pinned. Written out by hand from linux/fuse.h, so that a struct that moves, or a flag
// that is dropped, shows here and not as a mount that hangs.
import CQblk
import Glibc
import Testing

@testable import FuseExport

/// Little-endian bytes, field by field.
private struct Bytes {
    var all: [UInt8] = []
    init(_ fields: [(UInt64, Int)]) {
        for (value, width) in fields {
            for i in 0..<width { all.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * i))) }
        }
    }
}

private func request(_ opcode: UInt64, unique: UInt64 = 7, body: [(UInt64, Int)] = []) -> [UInt8] {
    let rest = Bytes(body).all
    return Bytes([(UInt64(40 + rest.count), 4), (opcode, 4), (unique, 8), (1, 8), (0, 4), (0, 4), (99, 4), (0, 4)]).all
        + rest
}

private func answer(_ bytes: [UInt8], readOnly: Bool = true) -> [UInt8] {
    let replies = FuseReplies(file: FuseFile(size: 1_048_576 + 512, readOnly: readOnly))
    var words = [UInt64](repeating: 0, count: (bytes.count + 7) / 8)
    words.withUnsafeMutableBytes { $0.copyBytes(from: bytes) }
    var out = [UInt64](repeating: 0, count: FuseReplies.capacity / 8)
    let length = words.withUnsafeBytes { raw in
        out.withUnsafeMutableBytes { room -> Int in
            guard let start = raw.baseAddress, let place = room.baseAddress else { return -1 }
            guard let request = FuseRequest(start, count: bytes.count) else { return -1 }
            return replies.answer(request, into: place)
        }
    }
    return length < 0 ? [] : out.withUnsafeBytes { Array($0.prefix(length)) }
}

private func status(_ error: Int32, unique: UInt64 = 7) -> [UInt8] {
    Bytes([(16, 4), (UInt64(UInt32(bitPattern: -error)), 4), (unique, 8)]).all
}

@Suite struct ProtocolTests {
    private let offered: UInt64 = 0xffff_ffff_ffff_ffff

    @Test func initialization() {
        let reply = answer(
            request(
                26,
                body: [(7, 4), (44, 4), (131_072, 4), (offered & 0xffff_ffff, 4), (offered >> 32, 4)]
                    + Array(repeating: (0, 4), count: 11)))
        // ASYNC_READ 0, BIG_WRITES 5, ASYNC_DIO 15, PARALLEL_DIROPS 18, MAX_PAGES 22, INIT_EXT 30; HAS_RESEND 39.
        let flags: UInt64 = 1 | 1 << 5 | 1 << 15 | 1 << 18 | 1 << 22 | 1 << 30
        let expected =
            Bytes([
                (80, 4), (0, 4), (7, 8), (7, 4), (38, 4), (131_072, 4), (flags, 4), (0xffff, 2), (0xffff, 2), (4096, 4),
                (1, 4), (256, 2), (0, 2), (1 << 7, 4),
            ]).all + [UInt8](repeating: 0, count: 28)
        #expect(reply == expected)
    }

    @Test func aKernelWithoutExtensionsGetsNone() {
        let reply = answer(request(26, body: [(7, 4), (31, 4), (0, 4), (1 | 1 << 15 | 1 << 22, 4), (0xffff_ffff, 4)]))
        #expect(Array(reply[28..<32]) == Bytes([(1 | 1 << 15 | 1 << 22, 4)]).all)
        #expect(Array(reply[48..<52]) == [0, 0, 0, 0])
    }

    @Test func foreignVersionsAreRefused() {
        #expect(answer(request(26, body: [(8, 4), (0, 4), (0, 4), (0, 4)])) == status(EPROTO))
        #expect(answer(request(26, body: [(7, 4), (12, 4), (0, 4), (0, 4)])) == status(EPROTO))
        #expect(answer(request(26, body: [(7, 4)])) == status(EPROTO))
    }

    @Test func attributes() {
        let expected = Bytes([
            (120, 4), (0, 4), (7, 8), (0x7fff_ffff, 8), (0, 4), (0, 4), (1, 8), (1_049_088, 8), (2049, 8), (0, 8),
            (0, 8),
            (0, 8), (0, 4), (0, 4), (0, 4), (0o100444, 4), (1, 4), (0, 4), (0, 4), (0, 4), (4096, 4), (0, 4),
        ])
        #expect(answer(request(3, body: [(0, 4), (0, 4), (0, 8)])) == expected.all)
    }

    @Test func opening() {
        // DIRECT_IO 0, KEEP_CACHE 1, NOFLUSH 5, PARALLEL_DIRECT_WRITES 6
        let expected = Bytes([(32, 4), (0, 4), (7, 8), (0, 8), (1 | 2 | 32 | 64, 4), (0, 4)])
        #expect(answer(request(14, body: [(0o100000, 4), (0, 4)])) == expected.all)
        #expect(answer(request(14, body: [(1, 4), (0, 4)])) == status(EROFS))
        #expect(answer(request(14, body: [(2, 4), (0, 4)])) == status(EROFS))
        #expect(answer(request(14)) == status(EINVAL))
    }

    @Test(arguments: [16, 43, 4] as [UInt64])
    func changesAreRefused(opcode: UInt64) { #expect(answer(request(opcode)) == status(EROFS)) }

    @Test(arguments: [18, 25, 20, 38] as [UInt64])
    func nothingToDo(opcode: UInt64) { #expect(answer(request(opcode)) == status(0)) }

    @Test(arguments: [22, 34, 36, 39, 40, 46, 9999] as [UInt64])
    func unknown(opcode: UInt64) { #expect(answer(request(opcode)) == status(ENOSYS)) }

    @Test(arguments: [2, 42] as [UInt64])
    func forgettingHasNoReply(opcode: UInt64) { #expect(answer(request(opcode)).isEmpty) }

    @Test func aWritableFilesInitialization() {
        let offer: [(UInt64, Int)] = [(7, 4), (44, 4), (0, 4), (0xffff_ffff, 4), (0xffff_ffff, 4)]
        let reply = answer(request(26, body: offer), readOnly: false)
        // ASYNC_READ 0, BIG_WRITES 5, ASYNC_DIO 15, PARALLEL_DIROPS 18, MAX_PAGES 22, INIT_EXT 30: no write-back cache (16).
        #expect(Array(reply[28..<32]) == Bytes([(1 | 1 << 5 | 1 << 15 | 1 << 18 | 1 << 22 | 1 << 30, 4)]).all)
        #expect(Array(reply[36..<40]) == Bytes([(128 << 10, 4)]).all, "max_write")
    }

    @Test func aWritableFileIsOpenedForFlushes() {
        // DIRECT_IO 0, KEEP_CACHE 1, PARALLEL_DIRECT_WRITES 6, and no NOFLUSH (5)
        let expected = Bytes([(32, 4), (0, 4), (7, 8), (0, 8), (1 | 2 | 64, 4), (0, 4)])
        #expect(answer(request(14, body: [(2, 4), (0, 4)]), readOnly: false) == expected.all)
    }

    @Test func sizeModeAndOwnerStay() {
        func set(_ valid: UInt64, size: UInt64 = 0) -> [UInt8] {
            let fields: [(UInt64, Int)] = [(valid, 4), (0, 4), (0, 8), (size, 8)] + Array(repeating: (0, 8), count: 8)
            return answer(request(4, body: fields), readOnly: false)
        }
        let attributes = answer(request(3, body: [(0, 4), (0, 4), (0, 8)]), readOnly: false)
        #expect(attributes.count == 120)
        // ATIME 4, MTIME 5, ATIME_NOW 7, MTIME_NOW 8, CTIME 10
        #expect(set(1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10) == attributes)
        #expect(set(1 << 3, size: 1_049_088) == attributes)
        #expect(set(1 << 3, size: 1_049_089) == status(EPERM))
        #expect(set(1 << 3) == status(EPERM))
        for field in [0, 1, 2] { #expect(set(1 << UInt64(field)) == status(EPERM)) }
        #expect(answer(request(4), readOnly: false) == status(EINVAL))
    }

    @Test func aWritesReply() {
        var out = [UInt64](repeating: 0, count: 4)
        let length = out.withUnsafeMutableBytes { room in
            room.baseAddress.map { FuseReplies.written($0, unique: 9, bytes: 4096) } ?? 0
        }
        #expect(
            out.withUnsafeBytes { Array($0.prefix(length)) } == Bytes([(24, 4), (0, 4), (9, 8), (4096, 4), (0, 4)]).all)
    }

    @Test func aResentRequestKeepsItsMark() {
        let unique: UInt64 = 1 << 63 | 12
        #expect(answer(request(25, unique: unique)) == status(0, unique: unique))
    }

    @Test func whatIsNoRequestGetsNoReply() {
        #expect(answer([UInt8](repeating: 0, count: 39)).isEmpty)
        // A length that is not what came.
        #expect(answer(request(25) + [0, 0, 0, 0, 0, 0, 0, 0]).isEmpty)
    }

    @Test func theStructsAreTheKernels() {
        #expect(MemoryLayout<fuse_in_header>.size == 40 && MemoryLayout<fuse_out_header>.size == 16)
        #expect(MemoryLayout<fuse_read_in>.size == 40 && MemoryLayout<fuse_write_in>.size == 40)
        #expect(MemoryLayout<fuse_write_out>.size == 8 && MemoryLayout<fuse_fallocate_in>.size == 32)
        #expect(MemoryLayout<fuse_setattr_in>.size == 88)
        #expect(MemoryLayout<fuse_init_out>.size == 64 && MemoryLayout<fuse_attr_out>.size == 104)
        #expect(FuseLimits.writeHead == 80 && FuseLimits.requestBytes(maxWrite: 4096) == 8192)
        #expect(FuseLimits.requestBytes(maxWrite: 1 << 20) == (1 << 20) + 80)
    }
}

/// What becomes of requests that change a disk of 1 MiB and one sector.
@Suite struct ChangeTests {
    private static let size: UInt64 = 1_048_576 + 512

    private func change(_ opcode: UInt64, _ body: [(UInt64, Int)], data: Int = 0) -> FuseChange? {
        let bytes = request(opcode, body: body + Array(repeating: (0xaa, 1), count: data))
        var words = [UInt64](repeating: 0, count: (bytes.count + 7) / 8)
        words.withUnsafeMutableBytes { $0.copyBytes(from: bytes) }
        return words.withUnsafeBytes { raw in
            guard let start = raw.baseAddress, let request = FuseRequest(start, count: bytes.count) else { return nil }
            return FuseChange(request, diskSize: Self.size)
        }
    }

    private func write(_ offset: UInt64, _ length: UInt64, data: Int) -> FuseChange? {
        change(16, [(1, 8), (offset, 8), (length, 4), (0, 4), (0, 8), (0, 4), (0, 4)], data: data)
    }

    private func allocate(_ mode: UInt64, _ offset: UInt64, _ length: UInt64) -> FuseChange? {
        change(43, [(1, 8), (offset, 8), (length, 8), (mode, 4), (0, 4)])
    }

    @Test func writesInsideTheDisk() {
        #expect(write(0, 512, data: 512) == .write(offset: 0, length: 512))
        #expect(write(1_048_576, 512, data: 512) == .write(offset: 1_048_576, length: 512))
        #expect(write(0, 0, data: 0) == .write(offset: 0, length: 0))
    }

    @Test func writesPastTheEndFindNoSpace() {
        #expect(write(1_048_576, 1024, data: 1024) == .refused(ENOSPC))
        #expect(write(Self.size, 512, data: 512) == .refused(ENOSPC))
        #expect(write(UInt64.max - 511, 512, data: 512) == .refused(ENOSPC))
    }

    @Test func writesThatMakeNoSenseAreRefused() {
        #expect(write(1, 512, data: 512) == .refused(EINVAL))
        #expect(write(0, 511, data: 511) == .refused(EINVAL))
        #expect(write(0, 1024, data: 512) == .refused(EINVAL), "less data than said")
        #expect(write(0, 512, data: 1024) == .refused(EINVAL), "more data than said")
        #expect(write(0, 0xffff_ffff, data: 512) == .refused(EINVAL))
        #expect(change(16, [(1, 8), (0, 8)]) == .refused(EINVAL), "cut off")
    }

    @Test func holesAreZerosThatMayGiveUpTheirStorage() {
        #expect(allocate(3, 4096, 8192) == .zero(offset: 4096, length: 8192, mayUnmap: true))
        for mode in [0x10, 0x11] as [UInt64] {
            #expect(allocate(mode, 0, Self.size) == .zero(offset: 0, length: Self.size, mayUnmap: false))
        }
    }

    @Test(arguments: [0, 1, 2, 4, 8, 0x12, 0x20, 0x40, 0xffff_ffff] as [UInt64])
    func otherAllocationsAreUnknown(mode: UInt64) { #expect(allocate(mode, 0, 512) == .refused(EOPNOTSUPP)) }

    @Test func allocationsNeverGrowTheDisk() {
        #expect(allocate(3, 0, Self.size + 512) == .refused(EFBIG))
        #expect(allocate(0x10, Self.size, 512) == .refused(EFBIG))
        #expect(allocate(3, 512, UInt64.max - 511) == .refused(EFBIG))
        #expect(allocate(3, 0, 0) == .refused(EINVAL))
        #expect(allocate(3, 5, 512) == .refused(EINVAL))
        #expect(change(43, [(1, 8)]) == .refused(EINVAL))
    }

    @Test(arguments: [20, 25] as [UInt64])
    func syncsAndClosesFlush(opcode: UInt64) { #expect(change(opcode, [(1, 8), (0, 8), (0, 8)]) == .flush) }

    @Test(arguments: [3, 4, 14, 15, 18, 26, 38, 46] as [UInt64])
    func theRestIsNoChange(opcode: UInt64) { #expect(change(opcode, [(0, 8)]) == nil) }

    @Test func noErrorSoundsAsIfTheRequestWereUnknown() {
        for error in [ENOSYS, EINVAL, EOPNOTSUPP, 0, -5, 512, Int32.min] { #expect(FuseChange.error(error) == EIO) }
        #expect(FuseChange.error(ENOSPC) == ENOSPC)
    }

    @Test func longZeroingGoesInAlignedParts() {
        let gib: UInt64 = 1 << 30
        var rest = ZeroRest(offset: gib - 512, end: 3 * gib + 1024, mayUnmap: true)
        var parts: [[UInt64]] = []
        while let part = rest.next() { parts.append([part.offset, part.length]) }
        #expect(parts == [[gib - 512, 512], [gib, gib], [2 * gib, gib], [3 * gib, 1024]])
    }
}
