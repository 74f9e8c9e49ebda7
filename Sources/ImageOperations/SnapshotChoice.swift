// Qemu-img lets a snapshot be named in three ways, because a snapshot's name may look like another one's id.

public import DiskTypes
public import ImageChain
import QCOW2
public import SystemPackage
import LinuxIO

/// How `-l` and `--snapshot` name a snapshot.
public enum SnapshotChoice {
    /// What to give `OpenOptions.snapshot` for `ID-or-NAME`, `snapshot.id=ID`, `snapshot.name=NAME` or both of these.
    public static func id(_ choice: String, in path: FilePath, _ options: OpenOptions) throws(ImageError) -> String {
        guard choice.hasPrefix("snapshot.id=") || choice.hasPrefix("snapshot.name=") else { return choice }
        var wantedID: String?
        var wantedName: String?
        for part in choice.split(separator: ",") {
            if part.hasPrefix("snapshot.id=") {
                wantedID = String(part.dropFirst("snapshot.id=".count))
            } else if part.hasPrefix("snapshot.name=") {
                wantedName = String(part.dropFirst("snapshot.name=".count))
            } else {
                throw ImageError(
                    .notFound, "\"\(part)\" names no snapshot", advice: "say snapshot.id= or snapshot.name=")
            }
        }
        let report = try ImageInfo.read(path: path, options: options)
        let hit = report.images[0].snapshots.first {
            (wantedID == nil || $0.id == wantedID) && (wantedName == nil || $0.name == wantedName)
        }
        guard let hit else {
            throw ImageError(
                .notFound, "there is no snapshot \"\(printable(choice))\"", advice: "`qblk info` lists what there is",
                path: path)
        }
        return hit.id
    }
}
