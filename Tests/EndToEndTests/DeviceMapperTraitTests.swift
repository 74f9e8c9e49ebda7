// Device-mapper moves no bytes of ours, so a wrong table is wrong data at kernel speed. In the kernel guest every
// trait that a table can express is mapped twice, by `qblk map --via dm` and by dmsetup from what `qblk table`
// prints, and both devices must have the bytes that qemu-img gives.

import Foundation
import TestKit
import Testing

@Suite(
    "Mapped through device-mapper, in the kernel guest", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"),
    .enabled(if: Guest.isReady, "needs the kernel guest: tools/guest/prepare"), .timeLimit(.minutes(20)))
struct DeviceMapperTraitTests {
    @Test("every trait has qemu-img's bytes, or is refused for a reason")
    func bytes() throws {
        try Scratch.withFolder { folder in
            var jobs = ""
            for trait in ImageTrait.all where !trait.huge {
                let image = try trait.made()
                let reference = try image.reference()
                let allowed = trait.allowed.map { " --allow-path /scratch/t/\($0)" }.joined()
                jobs += "\(trait.name)|\(image.folder)|\(trait.image)|\(reference)|-f \(trait.format)\(allowed)\n"
            }
            try Data(jobs.utf8).write(to: URL(filePath: "\(folder)/jobs"))
            try Data(Self.script.utf8).write(to: URL(filePath: "\(folder)/script"))
            let outcome = try Command(
                // One processor: one command follows another, and that takes half the time it takes on two.
                [
                    Guest.run, "--cpus", "1", "--timeout", "1000", "--", "bash", "\(folder)/script", Tools.qblk,
                    "\(folder)/jobs",
                ],
                deadline: 1020
            ).run()
            try #require(outcome.exit == 0, "\(outcome)")
            let lines = outcome.output.split(separator: "\n")
            let failed = lines.filter { $0.hasPrefix("FAIL") }
            #expect(failed.isEmpty, "\(failed.joined(separator: "\n"))\n\(outcome.errors)")
            let refused = lines.filter { $0.hasPrefix("refused") }
            for line in refused {
                // (The copy in the guest lies elsewhere than an absolute backing name says.)
                let isKnown = ["compressed", "sector", "no bytes", "lies outside the image's folder"].contains {
                    line.contains($0)
                }
                #expect(isKnown, "refused without one of the known reasons: \(line)")
            }
            let same = lines.filter { $0.hasPrefix("same") }
            #expect(same.count + refused.count == jobs.split(separator: "\n").count)
            #expect(same.count >= 100, "\(same.count) mapped, \(refused.joined(separator: "\n"))")
        }
    }

    /// Copies each image to the guest's own disk (loop devices want a real file system) and maps it both ways.
    static let script = """
        qblk=$1 jobs=$2
        export DM_DISABLE_UDEV=1 PATH=$PATH:/usr/sbin:/sbin
        check() { # check DEVICE WHAT: its size and bytes
          local size; size=$(stat -Lc %s "$reference")
          [ "$(blockdev --getsize64 "$1")" = "$size" ] || { echo "FAIL $name: $2 has another size"; return 1; }
          cmp "$1" "$reference" || { echo "FAIL $name: $2 has other bytes"; return 1; }
        }
        by_hand() { # the table, with a loop device for each path in it
          local file loop loops= rc=0
          "$qblk" table -r $options "$image" >/scratch/table || { echo "FAIL $name: table"; return 1; }
          for file in $(awk '$3 == "linear" {print $4}' /scratch/table | sort -u); do
            loop=$(losetup --find --show --read-only "$file") || { echo "FAIL $name: losetup"; rc=1; break; }
            loops="$loops $loop"
            sed -i "s#linear $file #linear $loop #" /scratch/table
          done
          if [ $rc = 0 ]; then
            dmsetup create --readonly hand /scratch/table && check /dev/mapper/hand "the table" || rc=1
            dmsetup remove --retry hand || rc=1
          fi
          for loop in $loops; do losetup -d "$loop"; done
          return $rc
        }
        while IFS='|' read -r name folder image reference options; do
          rm -rf /scratch/t; cp -r --sparse=always "$folder" /scratch/t; cd /scratch/t || exit 1
          if device=$("$qblk" map -r --via dm --name t $options "$image" 2>/scratch/error); then
            check "$device" "the map" && "$qblk" unmap t && by_hand && echo "same $name"
            "$qblk" unmap t 2>/dev/null
          else
            echo "refused $name: $(cat /scratch/error)"
          fi
        done <"$jobs"
        [ -z "$(dmsetup ls | grep -v 'No devices')" ] || echo "FAIL leftovers: $(dmsetup ls)"
        [ -z "$(losetup -a)" ] || echo "FAIL leftovers: $(losetup -a)"
        """
}

/// The kernel that tests may break.
enum Guest {
    static let run = URL(filePath: #filePath).deletingLastPathComponent()
        .appending(path: "../../tools/guest/run").standardizedFileURL.path
    static let isReady = (try? Command([run, "--available"]).run().exit) == 0
}
