// What becomes of a cluster is decided here: left out because it is zeros or what the backing file has, compressed
// where that helps, else stored as it is.

import BlockEngine
import ClusterCodec
import DiskTypes
import Glibc
import LinuxIO
import QCOW2

/// Decides about clusters, and compresses them. One a worker.
final class PieceEncoder {
    private let job: ImageWriteJob
    private let cluster: Int
    private let compressor: ClusterEncoder?
    private let backing: ChainReader?
    /// What the backing file has where a piece is.
    private let memory: AlignedBuffer
    private var backingStatus: StatusReader?

    init(_ job: ImageWriteJob) throws(ImageError) {
        self.job = job
        cluster = Int(job.image.clusterSize)
        compressor = job.options.compress ? ClusterEncoder(job.image.options.compression) : nil
        guard !job.options.compress || compressor != nil else { throw ImageError(.system, "no memory to compress") }
        do {
            memory = try AlignedBuffer(count: job.backing == nil ? 1 : job.pieceSize)
        } catch {
            throw ImageError(.system, "no memory for the buffers: \(error)")
        }
        if let chain = job.backing {
            backing = try ChainReader(chain, depth: 1)
            backingStatus = StatusReader(chain)
        } else {
            backing = nil
        }
    }

    /// The fates of clusters that are all zeros.
    func zeros(at start: UInt64, length: UInt64) throws(ImageError) -> [ClusterEncoding] {
        guard let size = job.backing?.size, start < size else { return [] }
        var fates: [ClusterEncoding] = []
        let end = min(start + length, size)
        var place = start
        while place < end, let status = try backingStatus?.status(at: place, length: end - place) {
            if !status.isZero {
                let last = Int((status.end - 1 - start) / UInt64(cluster))
                let first = Int((place - start) / UInt64(cluster))
                while fates.count < first { fates.append(.skip) }
                while fates.count <= last { fates.append(.zero) }
            }
            place = status.end
        }
        return fates
    }

    /// The fates of the clusters of `bytes`, which begin at `start`. `bytes` may end inside a cluster: the memory behind
    /// it, up to the cluster's end, is filled with zeros. Streams go to `streams`, one after the other.
    func encode(
        _ bytes: UnsafeMutableRawBufferPointer, at start: UInt64, _ streams: UnsafeMutableRawBufferPointer
    ) throws(ImageError) -> [ClusterEncoding] {
        guard let base = bytes.baseAddress else { return [] }
        let count = (bytes.count + cluster - 1) / cluster
        unsafe memset(base + bytes.count, 0, count * cluster - bytes.count)
        let below = try unsafe readBacking(at: start, count: count * cluster)
        var fates = [ClusterEncoding](repeating: .plain, count: count)
        if job.options.sparse > 0 { unsafe findZeros(base, below, &fates) }
        if let below = unsafe below { unsafe compare(base, below, &fates) }
        if let compressor { unsafe compress(base, streams, compressor, &fates) }
        return fates
    }

    /// Runs of zeros of the least length that counts are left out; where a backing file shows through, they hide it.
    private func findZeros(_ base: UnsafeRawPointer, _ below: UnsafeRawPointer?, _ fates: inout [ClusterEncoding]) {
        let hidden: ClusterEncoding = unsafe below == nil ? .skip : job.image.options.version == 2 ? .plain : .zero
        let least = min((Int(clamping: job.options.sparse) + cluster - 1) / cluster, fates.count)
        var at = 0
        while at < fates.count {
            var end = at
            while end < fates.count, unsafe ZeroScan.isZero(base + end * cluster, cluster) { end += 1 }
            if end - at >= least || end == fates.count { for i in at..<end { fates[i] = hidden } }
            at = end + 1
        }
    }

    private func compare(_ base: UnsafeRawPointer, _ below: UnsafeRawPointer, _ fates: inout [ClusterEncoding]) {
        for i in fates.indices where unsafe memcmp(base + i * cluster, below + i * cluster, cluster) == 0 {
            fates[i] = .skip
        }
    }

    private func compress(
        _ base: UnsafeRawPointer, _ streams: UnsafeMutableRawBufferPointer, _ compressor: ClusterEncoder,
        _ fates: inout [ClusterEncoding]
    ) {
        var used = 0
        for i in fates.indices where fates[i] == .plain {
            let room = unsafe UnsafeMutableRawBufferPointer(rebasing: streams[used..<(used + cluster - 1)])
            let source = unsafe UnsafeRawBufferPointer(start: base + i * cluster, count: cluster)
            guard let count = unsafe compressor.encode(source, into: room) else { continue }
            fates[i] = .compressed(count)
            used += count
        }
    }

    /// What the backing file has there, zeros behind its end; nil without one.
    private func readBacking(at start: UInt64, count: Int) throws(ImageError) -> UnsafeRawPointer? {
        guard let backing else { return nil }
        let below = unsafe memory.pointer
        let size = backing.chain.size
        let known = start < size ? Int(min(UInt64(count), size - start)) : 0
        unsafe memset(below + known, 0, count - known)
        if known > 0 {
            try unsafe backing.read(GuestOffset(start), into: UnsafeMutableRawBufferPointer(start: below, count: known))
        }
        return UnsafeRawPointer(below)
    }
}

@available(*, unavailable) extension PieceEncoder: Sendable {}
