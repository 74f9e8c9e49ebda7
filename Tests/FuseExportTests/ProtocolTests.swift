// Why this file exists: bytes to and from the kernel, pinned. Written out by hand from linux/fuse.h, so that a struct
// that moves, or a flag that is dropped, shows here and not as a mount that hangs.
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
        #expect(MemoryLayout<fuse_init_out>.size == 64 && MemoryLayout<fuse_attr_out>.size == 104)
        #expect(FuseLimits.writeHead == 80 && FuseLimits.requestBytes(maxWrite: 4096) == 8192)
        #expect(FuseLimits.requestBytes(maxWrite: 1 << 20) == (1 << 20) + 80)
    }
}
