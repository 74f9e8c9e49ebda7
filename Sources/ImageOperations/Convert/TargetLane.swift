// What a worker writes goes into a file at the disk's own offsets, or into the clusters of an image that is there
// already, by an engine of the worker's own. Copying is the same for both.

import BlockEngine
import DiskTypes
import LinuxIO
import SystemPackage

/// One worker's way into a target. Confined to its thread.
protocol TargetLane {
    /// What is not written reads as zeros.
    var isZero: Bool { get }
    func write(_ bytes: UnsafeRawBufferPointer, at place: UInt64) throws(ImageError)
    /// Makes a range read as zeros, if it does not.
    func zero(at place: UInt64, length: UInt64) throws(ImageError)
}

/// Into the clusters of a qcow2 image.
struct ImageLane: TargetLane {
    let writer: ChainReader
    let isZero: Bool
    /// Errors of writing are the output's, not the source's.
    let path: FilePath

    func write(_ bytes: UnsafeRawBufferPointer, at place: UInt64) throws(ImageError) {
        do throws(ImageError) {
            // The engine reads from it only.
            try unsafe writer.write(GuestOffset(place), from: UnsafeMutableRawBufferPointer(mutating: bytes))
        } catch {
            throw error.named(path)
        }
    }

    func zero(at place: UInt64, length: UInt64) throws(ImageError) {
        if isZero || length == 0 { return }
        do throws(ImageError) {
            try writer.zero(GuestOffset(place), length: length, mayUnmap: true)
        } catch {
            throw error.named(path)
        }
    }
}
