// What the encoder writes, a decoder that keeps 4 KiB of window must read; what cannot shrink is told, and nothing
// that can is given up.

import CQblk
import DiskTypes
import Testing

@testable import ClusterCodec

struct ClusterEncoderTests {
    static let text = (0..<65536).map { UInt8(truncatingIfNeeded: 32 + ($0 / 7 &* $0 / 3) % 64) }
    static let noise: [UInt8] = {
        var generator = SystemRandomNumberGenerator()
        return (0..<65536).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }()

    private func encoded(_ method: CompressionMethod, _ bytes: [UInt8]) throws -> [UInt8]? {
        let encoder = try #require(ClusterEncoder(method))
        var target = [UInt8](repeating: 0, count: bytes.count - 1)
        let count = bytes.withUnsafeBytes { from in target.withUnsafeMutableBytes { encoder.encode(from, into: $0) } }
        return count.map { Array(target[..<$0]) }
    }

    @Test("text shrinks and comes back", arguments: [CompressionMethod.deflate, .zstd], [512, 4096, 65536])
    func text(method: CompressionMethod, size: Int) throws {
        let bytes = Array(Self.text[..<size])
        let stream = try #require(try encoded(method, bytes))
        #expect(stream.count < size)
        let decoder = try #require(ClusterDecoder())
        var back = [UInt8](repeating: 0, count: size)
        let isGood = stream.withUnsafeBytes { from in
            back.withUnsafeMutableBytes { decoder.decode(method, from: from, into: $0) }
        }
        #expect(isGood && back == bytes)
    }

    @Test("noise does not shrink", arguments: [CompressionMethod.deflate, .zstd])
    func noise(method: CompressionMethod) throws {
        #expect(try encoded(method, Self.noise) == nil)
    }

    @Test("noise that repeats within the window is not taken for noise")
    func repetition() throws {
        let bytes = (0..<65536).map { Self.noise[$0 % 3000] }
        #expect(try #require(try encoded(.deflate, bytes)).count < 8192)
    }

    @Test("noise with a little text in it is not taken for noise")
    func mixed() throws {
        let bytes = Array(Self.noise[..<61440]) + [UInt8](repeating: 7, count: 4096)
        #expect(try encoded(.deflate, bytes) != nil)
    }

    @Test("no match of deflate reaches back further than 4 KiB", arguments: [4096, 65536, 1 << 20])
    func window(size: Int) throws {
        for seed in 1...8 as ClosedRange<UInt64> {
            let bytes = ClusterCodecTests.text(size, seed: seed)
            guard let stream = try encoded(.deflate, bytes) else { continue }
            #expect(inflatedByBytes(stream, windowBits: -12, count: size) == bytes, "seed \(seed)")
        }
    }

    @Test("the judge of the window refuses a stream with a longer one")
    func judge() {
        let far = (0..<65536).map { Self.noise[$0 % 8000] }
        #expect(inflatedByBytes(deflated(far, windowBits: -15), windowBits: -12, count: far.count) != far)
        #expect(inflatedByBytes(deflated(far, windowBits: -15), windowBits: -15, count: far.count) == far)
    }

    @Test("a compressor of QEMU's kind stands by for streams that do not come back")
    func careful() throws {
        let encoder = try #require(ZlibEncoder())
        var target = [UInt8](repeating: 0, count: 65536)
        for _ in 0..<2 {
            let count = Self.text.withUnsafeBytes { from in
                target.withUnsafeMutableBytes { into in
                    from.baseAddress.flatMap { from in
                        into.baseAddress.flatMap { encoder.encode(from, 65536, $0, 65535) }
                    }
                }
            }
            #expect(
                inflatedByBytes(Array(target[..<(try #require(count))]), windowBits: -12, count: 65536) == Self.text)
        }
    }
}
