use super::*;
use crate::storage::fake_disk::FakeDisk;

fn sample() -> Synced {
    let extent = |number| Extent {
        number,
        end: 1000 + number,
        sequence: 17,
        batches: 40,
        checksum: 0xdead_beef,
    };
    Synced {
        batches: 42,
        journals: vec![extent(3), extent(4)],
    }
}

#[tokio::test]
async fn it_is_read_as_it_was_written_and_any_flipped_bit_is_noticed() {
    let (disk, directory) = (FakeDisk::default(), Path::new("/engine"));
    disk.create_dir_all(directory).await.unwrap();
    assert_eq!(Synced::read(&disk, directory).await.unwrap(), None);
    for synced in [Synced::default(), sample()] {
        synced.write(&disk, directory).await.unwrap();
        assert_eq!(Synced::read(&disk, directory).await.unwrap(), Some(synced));
    }
    let bits = sample().encode().len() * 8;
    for bit in 0..bits {
        let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
        disk.damage(&directory.join(FILE), flip);
        let broken = Synced::read(&disk, directory).await.unwrap_err();
        assert_eq!(broken.to_string(), "file /engine/synced is damaged at offset 0");
        disk.damage(&directory.join(FILE), flip);
    }
}
