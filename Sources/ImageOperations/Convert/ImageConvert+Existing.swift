// `convert -n -O qcow2`: into the clusters of an image that is there, as a guest would write them. Its snapshots,
// backing file and options stay; what it has behind the source's end stays, too.

import DiskTypes
import ImageChain
import LinuxIO
import QCOW2
import SystemPackage

extension ImageConvert {
    static func intoImage(
        _ chain: ImageChain, _ source: FilePath, _ target: FilePath, _ options: ConvertOptions,
        _ report: (Progress) -> Void, _ skipped: @Sendable @escaping (ImageError) -> Void
    ) throws(ImageError) {
        let output: ImageChain
        do throws(ImageError) { output = try openImage(target, for: chain, options) } catch {
            throw error.named(target)
        }
        do throws(ImageError) {
            let job = ConvertJob(chain, .image(output, isZero: options.targetIsZero), options, skipped)
            try job.run(report)
            try job.requireWholeSource()
        } catch {
            // What was written so far is as whole as any image that is written.
            try? output.close()
            throw error.named(source).advising("\(target) is incomplete")
        }
        do throws(ImageError) { try output.close() } catch { throw error.named(target) }
    }

    private static func openImage(
        _ path: FilePath, for chain: ImageChain, _ options: ConvertOptions
    ) throws(ImageError) -> ImageChain {
        guard !options.compress else {
            throw .unsupported("what is written into an image that is there is not compressed")
        }
        guard options.format.given.isEmpty else {
            throw .unsupported("the image is there: -n goes without -o, -B and -F")
        }
        let file = try HostFile.open(path: path, writable: true, direct: .never)
        guard !chain.files.contains(where: { $0.identity == file.identity }) else {
            throw ImageError(
                .reference, "the output is the input, or a file that it needs", advice: "choose another name")
        }
        var open = OpenOptions()
        (open.format, open.writable, open.direct) = (.qcow2, true, false)
        open.allowedFolders = options.source.allowedFolders
        open.lock = options.source.lock
        let output = try ImageChain.open(path: path, options: open)
        guard output.size >= chain.size else {
            throw .unsupported(
                "the output has \(output.size) bytes, the image \(chain.size)",
                advice: "make it larger with qblk resize")
        }
        return output
    }
}
