// What a decoder may be handed, from the tame to the hostile, and the one answer it owes to each.
import ClusterCodec
import DiskTypes
import TestKit
import Testing

struct ClusterDecoderTests {
    static let cluster = 65536

    /// The decoder's answer, and what it wrote; behind the cluster stands a fence that must stay whole.
    private func decode(
        _ method: CompressionMethod, _ stream: [UInt8], size: Int = cluster, with decoder: ClusterDecoder? = nil
    ) throws -> [UInt8]? {
        let decoder = try decoder ?? #require(ClusterDecoder())
        var target = [UInt8](repeating: 0xa5, count: size + 4096)
        let good = target.withUnsafeMutableBytes { into in
            stream.withUnsafeBytes { from in
                decoder.decode(method, from: from, into: UnsafeMutableRawBufferPointer(rebasing: into[..<size]))
            }
        }
        #expect(Array(target[size...]) == [UInt8](repeating: 0xa5, count: 4096), "written past the cluster")
        return good ? Array(target[..<size]) : nil
    }

    private func encode(_ method: CompressionMethod, _ bytes: [UInt8]) -> [UInt8] {
        method == .deflate ? deflated(bytes) : zstandard(bytes)
    }

    @Test(arguments: [CompressionMethod.deflate, .zstd], [512, 4096, 65536, 2 << 20])
    func aClusterComesBack(method: CompressionMethod, size: Int) throws {
        let bytes = text(size)
        #expect(try decode(method, encode(method, bytes), size: size) == bytes)
    }

    @Test(arguments: [CompressionMethod.deflate, .zstd]) func whatFollowsTheStreamIsIgnored(
        method: CompressionMethod
    ) throws {
        let bytes = text(Self.cluster)
        let stream = encode(method, bytes)
        #expect(try decode(method, stream + [UInt8](repeating: 0, count: 511)) == bytes)
        #expect(try decode(method, stream + text(300, seed: 9)) == bytes)
    }

    @Test(arguments: [CompressionMethod.deflate, .zstd]) func aLongerStreamIsCut(method: CompressionMethod) throws {
        // Lengths on either side of what one more symbol makes, and stored blocks that cross the border.
        for extra in [1, 2, 100, 257, 258, 259, 4096, 65535, 65536, 1 << 20] {
            let bytes = text(Self.cluster + extra)
            #expect(try decode(method, encode(method, bytes)) == Array(bytes[..<Self.cluster]), "extra \(extra)")
        }
        let noise = (0..<(Self.cluster + 5000)).map { UInt8(truncatingIfNeeded: $0 &* $0 >> 7) }
        #expect(try decode(.deflate, deflated(noise, level: 0)) == Array(noise[..<Self.cluster]))
    }

    @Test(arguments: [CompressionMethod.deflate, .zstd]) func aBombFillsOneClusterAndNoMore(
        method: CompressionMethod
    ) throws {
        let stream = encode(method, [UInt8](repeating: 7, count: 64 << 20))
        #expect(try decode(method, stream) == [UInt8](repeating: 7, count: Self.cluster))
    }

    @Test(arguments: [CompressionMethod.deflate, .zstd]) func aShorterStreamIsRefused(
        method: CompressionMethod
    ) throws {
        for missing in [1, 512, Self.cluster - 1] {
            #expect(try decode(method, encode(method, text(Self.cluster - missing))) == nil, "missing \(missing)")
        }
    }

    @Test(arguments: [CompressionMethod.deflate, .zstd]) func aStreamCutAnywhereIsRefusedOrWhole(
        method: CompressionMethod
    ) throws {
        let bytes = text(4096)
        let stream = encode(method, bytes)
        let decoder = try #require(ClusterDecoder())
        for end in 0..<stream.count {
            let got = try decode(method, Array(stream[..<end]), size: 4096, with: decoder)
            #expect(got == nil || got == bytes, "cut at \(end)")
        }
        #expect(try decode(method, Array(stream[..<(stream.count / 2)]), size: 4096) == nil)
    }

    @Test(arguments: [CompressionMethod.deflate, .zstd]) func garbageHarmsNobody(method: CompressionMethod) throws {
        let decoder = try #require(ClusterDecoder())
        let good = encode(method, text(4096, seed: 3))
        for seed in 1...500 as ClosedRange<UInt64> {
            var random = SeededRandom(seed)
            var stream = seed % 2 == 0 ? text(Int(random.next() % 4000) + 1, seed: seed) : good
            for _ in 0..<3 { stream[Int(random.next() % UInt64(stream.count))] ^= UInt8(random.next() & 0xff) }
            _ = try decode(method, stream, size: 4096, with: decoder)
        }
        #expect(try decode(method, good, size: 4096, with: decoder) == text(4096, seed: 3), "the decoder is worn out")
    }

    @Test(arguments: [CompressionMethod.deflate, .zstd]) func nothingIsNoCluster(method: CompressionMethod) throws {
        #expect(try decode(method, []) == nil)
    }

    @Test func aWindowLargerThanQEMUsIsReadToo() throws {
        let bytes = text(Self.cluster)
        #expect(try decode(.deflate, deflated(bytes, windowBits: -15)) == bytes)
    }

    @Test func severalZstdFramesMakeOneCluster() throws {
        let bytes = text(Self.cluster)
        let stream = zstandard(Array(bytes[..<10000])) + zstandard(Array(bytes[10000...]))
        #expect(try decode(.zstd, stream) == bytes)
    }

    @Test func aZstdFrameThatHidesItsSizeIsRead() throws {
        let bytes = text(Self.cluster)
        #expect(try decode(.zstd, zstandard(bytes, windowLog: 23, sizeKnown: false)) == bytes)
    }

    @Test func aZstdFrameThatWantsTooMuchMemoryIsRefused() throws {
        #expect(try decode(.zstd, zstandard(text(Self.cluster), windowLog: 27, sizeKnown: false)) == nil)
    }
}
